"""Searches of one number (paper footnote 6): the sum of all objectives, each scaled to the range of the population."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np

from star.errors import StarError
from star.evolution.generational import Generational
from star.evolution.individual import Individual
from star.evolution.selection import Fitness, tournament
from star.genome import BackboneGenome, OptionPool, repair


def scaled_sums(individuals: Sequence[Individual]) -> list[float]:
    """U(L) + U(P) + … with U(x) = (x - min X) / (max X - min X) over the feasible ones (footnote 6); 0 where an
    objective is the same for all; infinity for an infeasible individual."""
    feasible = [index for index, individual in enumerate(individuals) if individual.feasible]
    sums = [math.inf] * len(individuals)
    if not feasible:
        return sums
    scores = np.array([individuals[index].scores for index in feasible], dtype=np.float64)
    low, high = scores.min(axis=0), scores.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    for index, total in zip(feasible, ((scores - low) / span).sum(axis=1), strict=True):
        sums[index] = float(total)
    return sums


def attraction(similarity: float, baseline: float, absorption: float) -> float:
    """β = β0 (1 - e^{-γ (1 - r)}): nothing between equals, most between strangers (A.4)."""
    return baseline * (1 - math.exp(-absorption * (1 - similarity)))


class GeneticAlgorithm(Generational):
    """GA (paper A.4): parents by tournament on the scaled sum, k-point crossover, mutation. Offspring replace the
    population but for the elites."""

    name = "ga"

    def _fitness(self, individuals: Sequence[Individual]) -> list[Fitness]:
        return [(total, 0.0) for total in scaled_sums(individuals)]


class Firefly(GeneticAlgorithm):
    """Firefly algorithm (paper A.4): each genome meets a tournament winner and moves towards it if that one shines
    brighter, light being a = 1 / (1 + s) for the scaled sum s; then it mutates.

    Moving replaces each LIV by that of the brighter genome with probability β = β0 (1 - e^{-γ (1 - r)}), r being the
    share of positions that have the same LIV class; a derived class is another one, however near. ``attraction`` is β0
    and ``absorption`` is γ.
    """

    name = "firefly"

    def __init__(self, pool: OptionPool, *, attraction: float = 1.0, absorption: float = 1.0, **options: Any) -> None:
        super().__init__(pool, **options)
        if not 0 <= attraction <= 1:
            raise StarError(f"attraction is {attraction}, but it must be a probability from 0 to 1.")
        if not 0 <= absorption < math.inf:
            raise StarError(f"absorption is {absorption}, but it must be a number from 0.")
        self.attraction = attraction
        self.absorption = absorption

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "attraction": self.attraction, "absorption": self.absorption}

    def _offspring(self, size: int) -> list[Individual]:
        keys = self._fitness(self.population)
        born: list[Individual] = []
        # The elites stay as they are; a population with failed members or few elites has more movers than places.
        movers = range(min(self.elites, len(self.population) - 1), len(self.population))
        for index in islice(cycle(movers), size):
            other = tournament(keys, self.tournament, self._rng)
            mover, parents = self.population[index].genome, [self.population[index].digest]
            if keys[other] < keys[index]:
                mover = self._moved(mover, self.population[other].genome)
                parents.append(self.population[other].digest)
            if (claimed := self._archive.claim_mutant(mover, self._rng, self.mutation)) is not None:
                born.append(Individual(*claimed, parents=tuple(parents), generation=self.birth_generation))
        return self._filled(born, size)

    def _moved(self, genome: BackboneGenome, towards: BackboneGenome) -> BackboneGenome:
        pairs = list(zip(genome, towards, strict=True))
        similarity = sum(own.liv == other.liv for own, other in pairs) / len(pairs)
        strength = attraction(similarity, self.attraction, self.absorption)
        segments = tuple(other if self._rng.random() < strength else own for own, other in pairs)
        return repair(BackboneGenome(segments), self.pool, self._rng)
