"""Selection by Pareto rank and crowding (paper A.4; Deb et al. 2002). Infeasible individuals come after all others."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np

from star.evolution.individual import Individual
from star.evolution.pareto import crowding_distance, non_dominated_ranks

#: (front, minus crowding): the smaller, the better. Infeasible individuals get an infinite front.
Fitness = tuple[float, float]


def fitness(individuals: Sequence[Individual]) -> list[Fitness]:
    """Front number and negated crowding distance of every individual, each front normalised by itself."""
    answer: list[Fitness] = [(float("inf"), 0.0)] * len(individuals)
    feasible = [index for index, individual in enumerate(individuals) if individual.feasible]
    if not feasible:
        return answer
    scores = np.array([individuals[index].scores for index in feasible], dtype=np.float64)
    ranks = non_dominated_ranks(scores)
    for rank in range(int(ranks.max()) + 1):
        members = np.flatnonzero(ranks == rank)
        for member, distance in zip(members, crowding_distance(scores[members]), strict=True):
            answer[feasible[member]] = (float(rank), -float(distance))
    return answer


def survivors(individuals: Sequence[Individual], size: int) -> list[Individual]:
    """The ``size`` best, best first: by front, within a front by crowding, within equals in the order given.

    Infeasible individuals only fill up what feasible ones leave empty.
    """
    keys = fitness(individuals)
    order = sorted(range(len(individuals)), key=lambda index: keys[index])  # stable: ties keep the order given
    return [individuals[index] for index in order[:size]]


def first_front(individuals: Sequence[Individual]) -> list[Individual]:
    """The non-dominated feasible individuals, in the order given."""
    return [individual for individual, (front, _) in zip(individuals, fitness(individuals), strict=True) if front == 0]


def tournament(keys: Sequence[Fitness], size: int, rng: Random) -> int:
    """Index of the fittest of ``size`` different random contestants; a tie goes to the one drawn first."""
    contestants = rng.sample(range(len(keys)), min(size, len(keys)))
    return min(contestants, key=lambda index: keys[index])
