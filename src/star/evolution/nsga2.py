"""NSGA-II over backbone genomes (paper 4 and A.4; Deb et al. 2002)."""

from __future__ import annotations

from collections.abc import Sequence

from star.evolution.generational import Generational
from star.evolution.individual import Individual
from star.evolution.selection import Fitness, fitness, survivors


class NSGA2(Generational):
    """Non-dominated sorting genetic algorithm: fitness is the front, then crowding.

    The next population is the best ``population_size`` of parents and offspring together, so the best ``elites``
    (paper footnote 7), and with them the whole first front while it fits, are carried over and never trained again.
    """

    name = "nsga2"

    def _fitness(self, individuals: Sequence[Individual]) -> list[Fitness]:
        return fitness(individuals)

    def _selected(self, parents: list[Individual], born: list[Individual]) -> list[Individual]:
        return survivors([*parents, *born], self.population_size)
