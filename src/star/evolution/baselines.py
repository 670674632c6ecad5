"""Searches to measure the others by: random search, and regularised evolution (Real et al. 2019)."""

from __future__ import annotations

from star.evolution.individual import Individual
from star.evolution.nsga2 import NSGA2
from star.evolution.scalar import GeneticAlgorithm
from star.evolution.selection import tournament


class RandomSearch(NSGA2):
    """Uniformly random genomes throughout; the population is the best of all so far by front and crowding."""

    name = "random"

    def _offspring(self, size: int) -> list[Individual]:
        return self._filled([], size)


class RegularisedEvolution(GeneticAlgorithm):
    """Ageing evolution: each child is a mutant of a tournament winner on the scaled sum, and the oldest members make
    room for the children, however good they are. ``elites`` only sets how many are born in a generation."""

    name = "regularised"

    def _offspring(self, size: int) -> list[Individual]:
        keys = self._fitness(self.population)
        born: list[Individual] = []
        for _ in range(size):
            parent = self.population[tournament(keys, self.tournament, self._rng)]
            if (claimed := self._archive.claim_mutant(parent.genome, self._rng, self.mutation)) is not None:
                born.append(Individual(*claimed, parents=(parent.digest,), generation=self.birth_generation))
        return self._filled(born, size)

    def _selected(self, parents: list[Individual], born: list[Individual]) -> list[Individual]:
        # Best first among equals in age, so that the worse of one generation leave before the better.
        keys = self._fitness([*parents, *born])
        everyone = [*parents, *born]
        order = sorted(range(len(everyone)), key=lambda index: (-everyone[index].generation, keys[index]))
        kept = [everyone[index] for index in order[: self.population_size]]
        keys = self._fitness(kept)
        return [kept[index] for index in sorted(range(len(kept)), key=keys.__getitem__)]
