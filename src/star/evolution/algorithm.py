"""What every search algorithm offers, and the table of those there are."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Protocol

from star.errors import StarError
from star.evolution.baselines import RandomSearch, RegularisedEvolution
from star.evolution.generational import Generational
from star.evolution.individual import Individual
from star.evolution.nsga2 import NSGA2
from star.evolution.scalar import Firefly, GeneticAlgorithm
from star.evolution.steady import SteadyStateNSGA2
from star.genome import BackboneGenome, OptionPool


class Algorithm(Protocol):
    """A search as a pure function of its seed and of what it was told; see ``NSGA2`` for the terms of use."""

    generation: int
    population: list[Individual]

    @property
    def pool(self) -> OptionPool: ...

    @property
    def front(self) -> list[Individual]: ...

    @property
    def pending(self) -> list[Individual]: ...

    def ask(self) -> list[BackboneGenome]: ...

    def tell(self, genomes: Sequence[BackboneGenome], scores: Sequence[Sequence[float] | None]) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...


class Mode(enum.StrEnum):
    """When a search breeds and selects."""

    GENERATIONAL = "generational"  # when a whole generation is told; the paper's
    STEADY_STATE = "steady-state"  # whenever a worker is free, and whenever a score is told


ALGORITHMS: dict[str, type[Generational]] = {
    algorithm.name: algorithm for algorithm in (NSGA2, GeneticAlgorithm, Firefly, RandomSearch, RegularisedEvolution)
}


def algorithm_class(name: str, mode: Mode = Mode.GENERATIONAL) -> type[Generational]:
    """The algorithm of that name; StarError if there is none, or none in that mode."""
    if name not in ALGORITHMS:
        raise StarError(f"{name!r} is no search algorithm; there are: {', '.join(ALGORITHMS)}.")
    if mode is Mode.GENERATIONAL:
        return ALGORITHMS[name]
    if name != NSGA2.name:
        raise StarError(f"{name!r} searches in generations only; the algorithm in steady state is {NSGA2.name}.")
    return SteadyStateNSGA2
