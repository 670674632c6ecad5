"""Halving as decisions on scores: budgets, places, promotion by front and crowding, rank correlation."""

from __future__ import annotations

import numpy as np
import pytest

from star.errors import StarError
from star.evolution import promoted, rank_correlation, rung_budgets, rung_places

stats = pytest.importorskip("scipy.stats")


def test_budgets_grow_and_places_shrink_by_the_reduction() -> None:
    assert rung_budgets(900, 3, 3) == (100, 300, 900)
    assert rung_places(14, 3, 3) == (14, 5, 2)
    assert rung_places(2, 4, 6) == (2, 1, 1, 1), "somebody always reaches the end"


def test_the_first_front_is_promoted_before_the_second_and_the_lonely_before_the_crowded() -> None:
    line = [(0.0, 10.0), (1.0, 9.0), (1.5, 8.5), (6.0, 4.0), (10.0, 0.0)]
    dominated = (9.0, 9.0)
    assert promoted([dominated, *line], 5) == [1, 2, 3, 4, 5]
    assert promoted([dominated, *line], 3) == [1, 4, 5], "the extremes and the loneliest"
    assert promoted([], 2) == []


def test_what_the_population_dominates_comes_last_and_rivals_take_no_places() -> None:
    scores = [(5.0, 5.0), (8.0, 1.0)]
    assert promoted(scores, 1) == [0]
    assert promoted(scores, 1, rivals=[(4.0, 4.0)]) == [1]
    assert promoted(scores, 2, rivals=[(0.0, 0.0)] * 9) == [0, 1]


def test_rank_correlation_is_spearmans_with_ties() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        one, two = rng.integers(0, 5, size=(2, int(rng.integers(3, 20))))
        if np.ptp(one) and np.ptp(two):
            assert rank_correlation(one, two) == pytest.approx(stats.spearmanr(one, two).statistic)
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    with pytest.raises(StarError, match="3 and 2 numbers"):
        rank_correlation([1, 2, 3], [1, 2])
