"""Pareto ranking, crowding and hypervolume: pure functions of score arrays, every objective minimised.

Infinite scores are ordered as numbers are; NaN has no order and is refused, because one NaN row silently corrupts
the ranks of all others. A failed candidate therefore has no place here: leave it out (see ``Individual.scores``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from star.errors import StarError


def _score_matrix(scores: ArrayLike, what: str) -> NDArray[np.float64]:
    """``scores`` as a float64 array [n, m]; an empty list is [0, 0]."""
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.size == 0 and matrix.ndim < 2:
        return matrix.reshape(0, 0)
    if matrix.ndim != 2:
        raise StarError(
            f"{what} must be a table with one row of objectives for each point, "
            f"but this array has {matrix.ndim} dimension(s): {matrix.shape}."
        )
    unordered = np.flatnonzero(np.isnan(matrix).any(axis=1))
    if len(unordered) > 0:
        raise StarError(
            f"{what} hold NaN in row {int(unordered[0])}: a failed point has no rank, so leave its row out."
        )
    return matrix


def non_dominated_ranks(scores: ArrayLike) -> NDArray[np.int64]:
    """Front number of every row: 0 for the non-dominated ones, 1 for those only dominated by front 0, and so on.

    A row dominates another if it is lower in at least one objective and higher in none (Deb et al. 2002), so equal
    rows share a front. ``scores`` is [n, m]; the answer is [n]. Raises StarError for NaN.
    """
    matrix = _score_matrix(scores, "scores")
    n = len(matrix)
    not_worse = np.all(matrix[:, None, :] <= matrix[None, :, :], axis=2)  # [i, j]: i is nowhere worse than j
    dominates = not_worse & ~not_worse.T
    dominators_left = dominates.sum(axis=0)
    ranks = np.full(n, -1, dtype=np.int64)
    rank = 0
    while (ranks < 0).any():
        front = (ranks < 0) & (dominators_left == 0)
        ranks[front] = rank
        dominators_left -= dominates[front].sum(axis=0)
        rank += 1
    return ranks


def crowding_distance(scores: ArrayLike) -> NDArray[np.float64]:
    """Crowding distance of every row of *one* front: how far apart its neighbours lie, averaged over the objectives.

    ``scores`` is [n, m]; the answer is [n]. As in the reference NSGA-II: each objective is divided by its range in
    this front; the first and last point of each objective get infinity; ties are ordered by row, so that among equal
    points some have a positive distance and the others none; an objective in which all points agree counts for
    nobody; one or two points are both extreme. Gaps between infinities count as zero. Raises StarError for NaN.
    """
    matrix = _score_matrix(scores, "scores")
    n, m = matrix.shape
    if n <= 2:
        return np.full(n, np.inf)
    total = np.zeros(n)
    with np.errstate(invalid="ignore"):  # ∞ − ∞ and ∞ / ∞ are NaN, and are read as "no distance" below
        for column in matrix.T:
            order = np.argsort(column, kind="stable")
            sorted_column = column[order]
            value_range = sorted_column[-1] - sorted_column[0]
            if value_range == 0 or np.isnan(value_range):
                continue
            padded = np.concatenate(([-np.inf], sorted_column, [np.inf]))
            gaps = np.nan_to_num(np.diff(padded) / value_range, nan=0.0, posinf=np.inf, neginf=-np.inf)
            total[order] += gaps[:-1] + gaps[1:]
    return total / m


def hypervolume(points: ArrayLike, reference: Sequence[float]) -> float:
    """Exact volume of the region that ``points`` [n, m] dominate and that ``reference`` [m] bounds from above.

    Any number of objectives; the cost grows as n^(m-1), which is nothing for a population. Points that are not
    below the reference in every objective add nothing. Raises StarError for NaN, for a point at minus infinity, or
    if the reference has another number of objectives.
    """
    matrix = _score_matrix(points, "points")
    bound = np.asarray(reference, dtype=np.float64)
    if bound.ndim != 1 or not np.isfinite(bound).all():
        raise StarError(f"The hypervolume reference must be a list of finite numbers, not {reference!r}.")
    if len(matrix) == 0:
        return 0.0
    if matrix.shape[1] != len(bound):
        raise StarError(
            f"The hypervolume reference has {len(bound)} objective(s) but the points have {matrix.shape[1]}; "
            "give one bound for each objective."
        )
    if np.isneginf(matrix).any():
        raise StarError("The hypervolume of a point at minus infinity is infinite; leave that point out.")
    inside = matrix[(matrix < bound).all(axis=1)]
    return _sliced_volume(inside, bound)


def _sliced_volume(points: NDArray[np.float64], bound: NDArray[np.float64]) -> float:
    """Volume by slices: between two neighbouring values of the last objective, the cross-section is constant."""
    if len(points) == 0:
        return 0.0
    if len(bound) == 1:
        return float(bound[0] - points[:, 0].min())
    points = points[np.argsort(points[:, -1], kind="stable")]
    if len(bound) == 2:
        return _staircase_area(points, bound)
    edges = np.append(points[:, -1], bound[-1])
    volume = 0.0
    for k in range(len(points)):
        thickness = float(edges[k + 1] - edges[k])
        if thickness > 0:
            section = points[: k + 1, :-1]
            section = section[non_dominated_ranks(section) == 0]
            volume += thickness * _sliced_volume(section, bound[:-1])
    return volume


def _staircase_area(points: NDArray[np.float64], bound: NDArray[np.float64]) -> float:
    """Two objectives: add the strip that each point, in ascending order of the second, opens below the first."""
    area = 0.0
    best_first = float(bound[0])
    for first, second in points.tolist():
        if first < best_first:
            area += (best_first - first) * (float(bound[1]) - second)
            best_first = first
    return area
