"""Successive halving for several objectives: decisions as pure functions of scores.

Candidates are trained to a first rung, the best of them further to the next, and so on (Jamieson & Talwalkar 2016).
What is compared has always had the same training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from star.errors import StarError
from star.evolution.pareto import crowding_distance, non_dominated_ranks


def rung_budgets(budget: int, rungs: int, reduction: int) -> tuple[int, ...]:
    """The budget of each rung: the last is the whole one, each one before a ``reduction``-th of the next."""
    return tuple(budget // reduction ** (rungs - 1 - rung) for rung in range(rungs))


def rung_places(candidates: int, rungs: int, reduction: int) -> tuple[int, ...]:
    """How many of ``candidates`` reach each rung: all the first, of those a ``reduction``-th the next; at least one."""
    places = [candidates]
    for _ in range(rungs - 1):
        places.append(-(-places[-1] // reduction))
    return tuple(places)


def promoted(scores: Sequence[Sequence[float]], places: int, rivals: Sequence[Sequence[float]] = ()) -> list[int]:
    """The rows of ``scores`` to train further, in their order: by front, then by crowding, then by order.

    ``rivals`` are scores at the same rung of what is in the population already: they take part in the ranking, so that
    what would add nothing to them comes last, and take no places.
    """
    if not scores:
        return []
    table = np.array([*scores, *rivals], dtype=np.float64)
    ranks = non_dominated_ranks(table)
    crowding = np.zeros(len(table))
    for rank in range(int(ranks.max()) + 1):
        members = np.flatnonzero(ranks == rank)
        crowding[members] = crowding_distance(table[members])
    order = sorted(range(len(scores)), key=lambda row: (ranks[row], -crowding[row], row))
    return sorted(order[:places])


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float | None:
    """Spearman's ρ of two lists of numbers, equal ones sharing their mean rank; None for fewer than three pairs, or
    where all of one list are equal."""
    one, two = _mean_ranks(first), _mean_ranks(second)
    if len(one) != len(two):
        raise StarError(f"{len(one)} and {len(two)} numbers cannot be paired; give two lists of one length.")
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return None
    return float(np.corrcoef(one, two)[0, 1])


def _mean_ranks(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    _, places, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[places]
