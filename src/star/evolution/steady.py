"""NSGA-II without generations: breed one whenever a worker is free, select whenever a score is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from star.evolution.archive import Admit, Fits
from star.evolution.nsga2 import NSGA2
from star.evolution.selection import survivors
from star.evolution.surrogate import Screen
from star.genome import BackboneGenome, OptionPool


class SteadyStateNSGA2(NSGA2):
    """Asynchronous steady-state NSGA-II (Durillo et al. 2008): the operators are NSGA-II's, the barrier is gone.

    ``ask`` gives the initial population at first and one child with each later call, bred from those that are told
    by then, whatever is still pending; so call it whenever a worker is free, and stop when there are enough. ``tell``
    takes scores in any order. After each one the best ``population_size`` of the population and the newcomer survive,
    by front and then by crowding.

    The course depends on the seed and on the order of all calls of ``ask`` and ``tell``. Generations are counts of
    births, for reports: the first is the initial population, each later one ``population_size - elites`` births. One
    has ended when all that were born in it and before are told; ``elites`` has no other effect.
    """

    name = "steady-state nsga2"

    def __init__(self, pool: OptionPool, **options: Any) -> None:
        super().__init__(pool, **options)
        self._births = 0
        self._first = 0  # of them in generation 1; fewer than a population where the space has no more

    @property
    def birth_generation(self) -> int:
        """The generation that the next birth counts to."""
        later = self._births - self._first
        return 2 + later // (self.population_size - self.elites) if self._births else 1

    @property
    def told(self) -> int:
        """Individuals whose scores are told, failed ones included."""
        return self._births - len(self._pending)

    def ask(self) -> list[BackboneGenome]:
        """New genomes to score: the initial population, then one child with each call; none if nothing new is left."""
        if self._births == 0:
            born = self._first_generation()
            self._first = len(born)
        else:
            born = self._screened(1)
        self._births += len(born)
        self._pending |= {individual.digest: individual for individual in born}
        self._untold |= {individual.digest for individual in born}
        return [individual.genome for individual in born]

    def tell(self, genomes: Sequence[BackboneGenome], scores: Sequence[Sequence[float] | None]) -> None:
        """Report scores, one row for each genome: None, NaN or infinity for a candidate that failed.

        Several at once are told one after the other, in the order given. Raises StarError as ``Generational.tell``.
        """
        for digest, individual in self._heard(genomes, scores).items():
            del self._pending[digest]
            self._untold.remove(digest)
            self.population = survivors([*self.population, individual], self.population_size)
            if self._screen is not None and individual.feasible:
                self._told.append(individual)
        oldest = min((individual.generation for individual in self._pending.values()), default=self.birth_generation)
        self.generation = max(self.generation, oldest - 1)

    def state_dict(self) -> dict[str, Any]:
        """As ``Generational.state_dict``."""
        return {**super().state_dict(), "first": self._first, "births": self._births}

    @classmethod
    def from_state(
        cls,
        pool: OptionPool,
        state: dict[str, Any],
        *,
        admit: Admit | None = None,
        fits: Fits | None = None,
        screen: Screen | None = None,
    ) -> Self:
        """As ``Generational.from_state``."""
        search = super().from_state(pool, state, admit=admit, fits=fits, screen=screen)
        search._first, search._births = state["first"], state["births"]
        return search
