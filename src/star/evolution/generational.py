"""What the generational searches of paper A.4 have in common: ask, tell, breeding, and a memory of what was asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any, ClassVar, Self

from star.errors import StarError
from star.evolution.archive import Admit, Archive, Fits
from star.evolution.individual import Individual, feasible_scores
from star.evolution.selection import Fitness, first_front, tournament
from star.evolution.surrogate import Screen
from star.genome import BackboneGenome, LivClass, OptionPool, crossover, initial_population, require_valid


class Generational(ABC):
    """A search in generations behind ``ask`` and ``tell``.

    Generation 1 is the initial population of paper 5. Every later one has ``population_size - elites`` offspring:
    parents by tournament, k-point crossover, mutation. Subclasses say who is fitter (``_fitness``), who survives
    (``_selected``), and may breed in another way (``_offspring``).

    No architecture is asked for twice, whatever integers encode it. A genome that ``admit`` refuses is never asked
    for at all. With a ``screen``, more offspring are bred than asked for, and it chooses among them.
    Where the pool has the extension ``operators``, mutations also lead to classes that it does not have, as far as
    ``fits`` allows; these join the pool as soon as a genome with them is asked for.
    ``initial`` genomes take the first places of generation 1. When nothing new can be found, ``ask`` returns fewer
    genomes, and in the end none. ``objectives`` may be left out: then the first scores told decide it.

    The course of a search depends on the seed and on what it was told, never on when; ``state_dict`` and
    ``from_state`` continue it exactly.
    """

    name: ClassVar[str]

    def __init__(
        self,
        pool: OptionPool,
        *,
        depth: int,
        population_size: int = 16,
        objectives: int | None = None,
        seed: int = 0,
        mutation: float = 0.1,
        crossover_points: int = 2,
        elites: int = 2,
        tournament: int = 2,
        admit: Admit | None = None,
        fits: Fits | None = None,
        screen: Screen | None = None,
        initial: Sequence[BackboneGenome] = (),
    ) -> None:
        _check("depth", depth, depth >= 1, "at least 1")
        _check("population_size", population_size, population_size >= 2, "at least 2")
        _check("objectives", objectives, objectives is None or objectives >= 1, "at least 1")
        _check("mutation", mutation, 0 <= mutation <= 1, "a probability from 0 to 1")
        _check("crossover_points", crossover_points, crossover_points >= 1, "at least 1")
        _check(
            "elites", elites, 0 <= elites < population_size, f"from 0 to {population_size - 1}, the population less 1"
        )
        _check("tournament", tournament, tournament >= 1, "at least 1")
        self.depth = depth
        self.population_size = population_size
        self.objectives = objectives
        self.seed = seed
        self.mutation = mutation
        self.crossover_points = crossover_points
        self.elites = elites
        self.tournament = tournament
        self.generation = 0
        """Generations told in full; 0 before the first."""
        self.population: list[Individual] = []
        """The survivors, best first."""
        self._pending: dict[str, Individual] = {}  # by digest, in the order asked
        self._untold: set[str] = set()
        self._archive = Archive(pool, admit=admit, fits=fits)
        self._screen = screen
        self._initial = tuple(initial)
        for genome in self._initial:
            require_valid(genome, pool)
            _check(f"the depth of the initial genome {genome}", genome.depth, genome.depth == depth, f"{depth}")
        self._told: list[Individual] = []  # with scores, in the order asked; kept for a screen only
        self._rng = Random(seed)

    @property
    def pool(self) -> OptionPool:
        """The pool that the search began with, and the classes that it has derived."""
        return self._archive.pool

    @property
    def pending(self) -> list[Individual]:
        """What was asked for in this generation, in that order; ``scores`` where they are told already."""
        return list(self._pending.values())

    @property
    def front(self) -> list[Individual]:
        """The non-dominated individuals of the population."""
        return first_front(self.population)

    def ask(self) -> list[BackboneGenome]:
        """The genomes to score next; the same ones until ``tell`` has heard of all of them.

        An empty list says that no new architecture is left to ask for.
        """
        if not self._pending:
            size = self.population_size - self.elites
            born = self._first_generation() if self.generation == 0 else self._screened(size)
            self._pending = {individual.digest: individual for individual in born}
            self._untold = set(self._pending)
        return [individual.genome for individual in self._pending.values()]

    def tell(self, genomes: Sequence[BackboneGenome], scores: Sequence[Sequence[float] | None]) -> None:
        """Report scores, one row for each genome: None, NaN or infinity for a candidate that failed.

        A generation may be told in any order and in parts; it ends, and selection happens, with its last part.
        Raises StarError for a genome that was not asked for, a second report, or a wrong number of scores.
        """
        told = self._heard(genomes, scores)
        self._pending.update(told)
        self._untold -= told.keys()
        if told and not self._untold:
            self.population = self._selected(self.population, list(self._pending.values()))
            if self._screen is not None:
                self._told += [individual for individual in self._pending.values() if individual.feasible]
            self.generation += 1
            self._pending = {}

    def _heard(
        self, genomes: Sequence[BackboneGenome], scores: Sequence[Sequence[float] | None]
    ) -> dict[str, Individual]:
        """The individuals told of with their scores, by digest; settles the number of objectives."""
        if len(genomes) != len(scores):
            raise StarError(f"{len(genomes)} genomes were told with {len(scores)} rows of scores; give one row each.")
        objectives = self.objectives
        told: dict[str, Individual] = {}
        for genome, row in zip(genomes, scores, strict=True):
            digest = genome.digest(self.pool)
            if digest not in self._untold or digest in told:
                raise StarError(f"genome {str(genome)!r} is not waiting for scores; tell each genome of ask() once.")
            if row is not None:
                objectives = len(row) if objectives is None else objectives
                if len(row) != objectives:
                    raise StarError(
                        f"genome {str(genome)!r} was told {len(row)} score(s); this search has {objectives}."
                    )
            told[digest] = replace(self._pending[digest], scores=feasible_scores(row))
        self.objectives = objectives
        return told

    @property
    def birth_generation(self) -> int:
        """The generation that the next birth counts to."""
        return self.generation + 1

    @abstractmethod
    def _fitness(self, individuals: Sequence[Individual]) -> list[Fitness]:
        """A key for each individual, the smaller the fitter."""

    def _selected(self, parents: list[Individual], born: list[Individual]) -> list[Individual]:
        """The next population, best first: the elites, the fittest of the old one, and all that were born."""
        keys = self._fitness(parents)
        elites = [parents[index] for index in sorted(range(len(parents)), key=keys.__getitem__)[: self.elites]]
        population = [*elites, *born]
        keys = self._fitness(population)
        return [population[index] for index in sorted(range(len(population)), key=keys.__getitem__)]

    def _first_generation(self) -> list[Individual]:
        born: list[Individual] = []
        usual = initial_population(self._archive.base, self.depth, self.population_size, self._rng)
        for genome in (*self._initial, *usual):
            if len(born) < self.population_size and (digest := self._archive.claim(genome)) is not None:
                born.append(Individual(genome, digest))
        return self._filled(born, self.population_size)

    def _screened(self, size: int) -> list[Individual]:
        """``size`` offspring to ask for: all that are bred, or those that the screen chooses of more."""
        if self._screen is None:
            return self._offspring(size)
        before = self.pool
        bred = self._offspring(size * self._screen.factor)
        chosen = self._screen.choose(bred, self._told, self.population, size, self._rng, pool=self.pool)
        kept = {individual.digest for individual in chosen}
        for individual in bred:
            if individual.digest not in kept:
                self._archive.release(individual.digest)
        self._archive.keep_derived(before, [individual.genome for individual in chosen])
        return chosen

    def _offspring(self, size: int) -> list[Individual]:
        keys = self._fitness(self.population)
        born: list[Individual] = []
        fruitless = 0  # pairs in a row that bred nothing new
        while self.population and len(born) < size and fruitless < self.population_size:
            first, second = self._parents(keys)
            children = crossover(first.genome, second.genome, self.pool, self._rng, self.crossover_points)
            before = len(born)
            for child in children[: size - len(born)]:
                if (claimed := self._archive.claim_mutant(child, self._rng, self.mutation)) is not None:
                    parents = tuple(dict.fromkeys((first.digest, second.digest)))
                    born.append(Individual(*claimed, parents=parents, generation=self.birth_generation))
            fruitless = 0 if len(born) > before else fruitless + 1
        return self._filled(born, size)

    def _parents(self, keys: list[Fitness]) -> tuple[Individual, Individual]:
        """Two tournament winners, different ones if the population has two."""
        first = tournament(keys, self.tournament, self._rng)
        others = [index for index in range(len(keys)) if index != first] or [first]
        second = others[tournament([keys[index] for index in others], self.tournament, self._rng)]
        return self.population[first], self.population[second]

    def _filled(self, born: list[Individual], size: int) -> list[Individual]:
        """``born`` and random newcomers up to ``size``, fewer if there is nothing new."""
        while len(born) < size:
            claimed = self._archive.claim_random(self.depth, self._rng)
            if claimed is None:
                break
            born.append(Individual(*claimed, generation=self.birth_generation))
        return born

    def _settings(self) -> dict[str, Any]:
        """The arguments that make a search like this one, but for the pool, ``admit``, ``fits`` and ``screen``."""
        return {
            "depth": self.depth,
            "population_size": self.population_size,
            "objectives": self.objectives,
            "seed": self.seed,
            "mutation": self.mutation,
            "crossover_points": self.crossover_points,
            "elites": self.elites,
            "tournament": self.tournament,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything but the pool that the search began with, ``admit``, ``fits`` and ``screen``, as plain data for
        ``json.dumps``."""
        version, internal, gauss = self._rng.getstate()
        return {
            "algorithm": self.name,
            "settings": self._settings(),
            "initial": [str(genome) for genome in self._initial],
            "generation": self.generation,
            "population": [individual.to_json() for individual in self.population],
            "pending": [individual.to_json() for individual in self._pending.values()],
            "untold": [digest for digest in self._pending if digest in self._untold],
            "seen": self._archive.digests,
            "told": [individual.to_json() for individual in self._told],
            "derived": [row.to_dict() for row in self._archive.derived],
            "random": [version, list(internal), gauss],
        }

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
        """The search that ``state_dict`` described; it goes on exactly as the original would have."""
        if state["algorithm"] != cls.name:
            raise StarError(f"the state is that of a search by {state['algorithm']!r}, not by {cls.name!r}.")
        initial = [BackboneGenome.parse(text) for text in state.get("initial", ())]
        search = cls(pool, admit=admit, fits=fits, screen=screen, initial=initial, **state["settings"])
        search.generation = state["generation"]
        search.population = [Individual.from_json(data) for data in state["population"]]
        search._pending = {data["digest"]: Individual.from_json(data) for data in state["pending"]}
        search._told = [Individual.from_json(data) for data in state.get("told", ())]
        search._untold = set(state["untold"])
        derived = [LivClass.from_dict(row) for row in state.get("derived", ())]
        search._archive = Archive(pool, admit=admit, fits=fits, digests=state["seen"], derived=derived)
        version, internal, gauss = state["random"]
        search._rng.setstate((version, tuple(internal), gauss))
        return search


def _check(name: str, value: float | None, allowed: bool, range_text: str) -> None:
    if not allowed:
        raise StarError(f"{name} is {value}, but it must be {range_text}.")
