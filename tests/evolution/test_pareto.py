"""Ranks, crowding and hypervolume, held against pymoo (a dev dependency) and against their definitions."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray

from star.errors import StarError
from star.evolution import crowding_distance, hypervolume, non_dominated_ranks

pymoo_sorting = pytest.importorskip("pymoo.util.nds.fast_non_dominated_sort")
pymoo_metrics = pytest.importorskip("pymoo.operators.survival.rank_and_crowding.metrics")
pymoo_hv = pytest.importorskip("pymoo.indicators.hv")


def score_table(rng: np.random.Generator, *, infinities: bool) -> NDArray[np.float64]:
    """Up to 40 points in up to 5 objectives, often with ties, repeated rows and constant objectives."""
    n, m = int(rng.integers(1, 41)), int(rng.integers(1, 6))
    if rng.random() < 0.6:
        table = rng.integers(0, int(rng.integers(1, 8)), size=(n, m)).astype(float)
    else:
        table = rng.normal(size=(n, m)) * 10.0 ** rng.integers(-3, 9, size=m)
    if rng.random() < 0.3:
        table[:, rng.integers(m)] = 1.0
    if rng.random() < 0.3:
        table = table[rng.integers(0, n, size=n)]
    if infinities:
        table[rng.random(size=(n, m)) < 0.1] = np.inf
        table[rng.random(size=(n, m)) < 0.03] = -np.inf
    return table


@pytest.mark.parametrize("infinities", [False, True])
def test_ranks_and_crowding_equal_pymoo_on_random_tables(infinities: bool) -> None:
    rng = np.random.default_rng(11)
    crowding_oracle = pymoo_metrics.get_crowding_function("cd")
    for _ in range(800):
        table = score_table(rng, infinities=infinities)
        ranks = non_dominated_ranks(table)
        fronts = pymoo_sorting.fast_non_dominated_sort(table)
        assert sorted(ranks) == sorted(rank for rank, front in enumerate(fronts) for _ in front)
        for rank, front in enumerate(fronts):
            assert set(np.flatnonzero(ranks == rank)) == set(front)
            members = table[np.flatnonzero(ranks == rank)]
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                expected = crowding_oracle.do(members)
            np.testing.assert_allclose(crowding_distance(members), expected, rtol=1e-12)


def test_hypervolume_equals_pymoo() -> None:
    rng = np.random.default_rng(12)
    for _ in range(1000):
        m = int(rng.integers(1, 6))
        points = rng.random(size=(int(rng.integers(1, 12)), m))
        if rng.random() < 0.5:
            points = np.round(points * 4) / 4
        points[rng.random(size=points.shape) < 0.05] = np.inf
        reference = rng.random(size=m) * 0.7 + 0.5
        ours = hypervolume(points, list(reference))
        inside = points[(points < reference).all(axis=1)]
        expected = pymoo_hv.HV(ref_point=reference)(inside) if len(inside) else 0.0
        assert ours == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_equal_points_share_a_front_and_a_chain_has_one_front_each() -> None:
    assert non_dominated_ranks([[1, 1], [1, 1], [0, 2]]).tolist() == [0, 0, 0]
    assert non_dominated_ranks([[3.0], [1.0], [2.0], [1.0]]).tolist() == [2, 0, 1, 0]
    assert non_dominated_ranks([]).tolist() == []


def test_crowding_by_hand() -> None:
    # Ranges are 4 and 8; the middle point's neighbours are 4/4 and 8/8 apart; averaged over two objectives: 1.
    distances = crowding_distance([[0.0, 8.0], [1.0, 4.0], [4.0, 0.0]])
    assert distances.tolist() == [math.inf, 1.0, math.inf]
    assert crowding_distance([[1.0, 2.0]]).tolist() == [math.inf]
    assert crowding_distance([[1.0], [1.0], [1.0]]).tolist() == [0.0, 0.0, 0.0]


def test_hypervolume_by_hand() -> None:
    assert hypervolume([[1.0, 2.0], [2.0, 1.0]], [3.0, 3.0]) == pytest.approx(3.0)
    assert hypervolume([[0.0, 0.0, 0.0]], [2.0, 3.0, 4.0]) == pytest.approx(24.0)
    assert hypervolume([[4.0, 0.0]], [3.0, 3.0]) == 0.0, "a point beyond the reference adds nothing"
    assert hypervolume([[math.inf, 0.0]], [3.0, 3.0]) == 0.0
    assert hypervolume([], [3.0, 3.0]) == 0.0


def test_scores_without_an_order_are_refused() -> None:
    for function in (non_dominated_ranks, crowding_distance, lambda s: hypervolume(s, [1.0, 1.0])):
        with pytest.raises(StarError, match="NaN in row 1"):
            function([[0.0, 0.0], [math.nan, 0.0], [1.0, 1.0]])
    with pytest.raises(StarError, match="dimension"):
        non_dominated_ranks([1.0, 2.0])
    with pytest.raises(StarError, match="1 objective"):
        hypervolume([[0.0, 0.0]], [1.0])
    with pytest.raises(StarError, match="minus infinity"):
        hypervolume([[-math.inf, 0.0]], [1.0, 1.0])
