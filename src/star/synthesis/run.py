"""A run as a thing to look at: what was searched, how far it is, and what it found. Reads only."""

from __future__ import annotations

import enum
from pathlib import Path

from star.errors import StarError
from star.evolution import hypervolume, non_dominated_ranks
from star.genome import BASELINES, BackboneGenome, LivClass, OptionPool, preset
from star.synthesis.calibration import Calibration
from star.synthesis.candidate import Candidate, Status
from star.synthesis.lock import is_locked
from star.synthesis.recipe import Recipe
from star.synthesis.store import CALIBRATION, Store

REFERENCE_MARGIN = 0.1


class RunState(enum.StrEnum):
    """What is going on in a run directory."""

    RUNNING = "running"  # some process is writing to it
    INTERRUPTED = "interrupted"  # generations are missing; starting it again continues it
    FINISHED = "finished"


class Run:
    """A run directory. Everything is read when asked for, so a running search can be watched.

    Close it, or use it in a ``with`` statement, to let go of the database.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._store = Store.open(self.path)

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """The run in a directory; StarError where there is none."""
        return cls(path)

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def recipe(self) -> Recipe:
        """What is searched for, and how; with what a calibration has settled."""
        text, calibration = self._store.fact("recipe"), self.calibration
        if text is None:
            raise StarError(f"the run {str(self.path)!r} was killed before it began; start it again with a recipe")
        recipe = Recipe.model_validate_json(text)
        return recipe if calibration is None else calibration.setting.applied(recipe)

    @property
    def calibration(self) -> Calibration | None:
        """What was measured before the search, if its recipe asked for that."""
        text = self._store.fact(CALIBRATION)
        return None if text is None else Calibration.from_json(text)

    @property
    def corpus(self) -> str | None:
        """What the text is, in words; None before it was read."""
        return self._store.fact("corpus_description")

    @property
    def state(self) -> RunState:
        """Whether it runs, and whether it has all its generations."""
        if is_locked(self.path):
            return RunState.RUNNING
        complete = self._store.fact("exhausted") is not None or self.generations >= self.recipe.search.generations
        return RunState.FINISHED if complete else RunState.INTERRUPTED

    @property
    def generations(self) -> int:
        """How many generations have ended."""
        return self._store.generations()

    @property
    def candidates(self) -> list[Candidate]:
        """Every candidate so far, in the order asked for; without baselines."""
        return self._store.candidates()

    def candidate(self, name: str | int) -> Candidate:
        """The candidate of that number, or the baseline of that name; StarError if there is none."""
        for candidate in [*self.candidates, *self._store.candidates(generation=0)]:
            if candidate.name == str(name):
                return candidate
        count = len(self.candidates)
        baselines = "".join(f", {baseline}" for baseline in self.baselines)
        raise StarError(f"{str(name)!r} is no candidate of {str(self.path)!r}; it has 1 to {count}{baselines}")

    @property
    def derived(self) -> list[LivClass]:
        """The classes that the search has derived from those of the recipe, by id."""
        return self._store.derived()

    @property
    def pool(self) -> OptionPool:
        """The recipe's pool and the derived classes: every class that a candidate can have."""
        return self.recipe.pool.extended(*self.derived)

    def architecture(self, candidate: Candidate) -> tuple[BackboneGenome, OptionPool]:
        """The canonical genome of a candidate or baseline, and the pool that gives it its meaning."""
        if candidate.name in BASELINES:
            return preset(candidate.name, self.recipe.model.depth)
        genome = BackboneGenome.parse(candidate.canonical)
        used = {segment.liv for segment in genome}
        return genome, self.recipe.pool.extended(*(row for row in self.derived if row.id in used))

    def population(self, generation: int) -> list[Candidate]:
        """The survivors of a generation (1 is the initial one), best first; StarError if it has not ended."""
        population = self._store.population(generation)
        if not population:
            raise StarError(
                f"the run {str(self.path)!r} has no population {generation}; "
                f"{self.generations} generation(s) have ended"
            )
        return population

    @property
    def last_population(self) -> list[Candidate]:
        """The survivors of the last generation that has ended, best first; empty before the first has."""
        return self._store.population(self.generations)

    @property
    def front(self) -> list[Candidate]:
        """The non-dominated candidates of the last population, by their first objective."""
        return first_front(self.last_population, self.recipe.search.objectives)

    @property
    def reference(self) -> tuple[float, ...] | None:
        """The point that bounds the hypervolume; see ``reference_point``. None before the first generation ends."""
        return reference_point(self._store.candidates(generation=1), self.recipe) if self.generations else None

    @property
    def hypervolumes(self) -> list[float]:
        """The volume that each generation's population dominates, below one reference point.

        As a share of the box between the best values of the first generation and ``reference``: better than 1 is
        possible later. Objectives of any scale count alike.
        """
        first, recipe = self._store.candidates(generation=1), self.recipe
        return [
            dominated_share(self._store.population(generation), first, recipe)
            for generation in range(1, self.generations + 1)
        ]

    @property
    def baselines(self) -> dict[str, Candidate]:
        """The presets that ``compare`` has trained so far on this run's text and budget, by name."""
        return {candidate.name: candidate for candidate in self._store.candidates(generation=0)}


def score_row(candidate: Candidate, objectives: tuple[str, ...]) -> tuple[float, ...] | None:
    """The scores of a candidate in the recipe's order; None unless it is done and keeps to all constraints."""
    if candidate.status is not Status.DONE or candidate.violated:
        return None
    return tuple(candidate.scores[objective] for objective in objectives)


def require_front(run: Run) -> tuple[Candidate, ...]:
    """The front of `run`; StarError where no generation has ended, or nothing keeps to the constraints."""
    front = tuple(run.front)
    if not front and run.generations:
        raise StarError(
            f"the run {str(run.path)!r} has no front: no candidate keeps to {', '.join(run.recipe.search.constraints)} "
            "yet; continue it with more --generations, or loosen that in a new run"
        )
    if not front:
        raise StarError(f"the run {str(run.path)!r} has no population yet; continue it with `star evolve` first")
    return front


def first_front(candidates: list[Candidate], objectives: tuple[str, ...]) -> list[Candidate]:
    """The non-dominated ones among the candidates that are done, by their first objective."""
    scored = [(row, candidate) for candidate in candidates if (row := score_row(candidate, objectives)) is not None]
    if not scored:
        return []
    ranks = non_dominated_ranks([row for row, _ in scored])
    front = [pair for pair, rank in zip(scored, ranks, strict=True) if rank == 0]
    return [candidate for _, candidate in sorted(front, key=lambda pair: pair[0])]


def reference_point(first: list[Candidate], recipe: Recipe) -> tuple[float, ...] | None:
    """For each objective the worst score of the first generation, and a tenth of that generation's range beyond it.

    Without a range, a tenth of the score. Where none keeps to all constraints, those that are done and break
    some count. None if no candidate of that generation is done.
    """
    box = _box(first, recipe)
    return None if box is None else box[1]


def dominated_share(population: list[Candidate], first: list[Candidate], recipe: Recipe) -> float:
    """The hypervolume of a population in units of the first generation's box; see ``Run.hypervolumes``."""
    box = _box(first, recipe)
    if box is None:
        return 0.0
    best, reference = box
    rows = [row for candidate in population if (row := score_row(candidate, recipe.search.objectives)) is not None]
    scaled = [
        [(value - low) / (high - low) for value, low, high in zip(row, best, reference, strict=True)] for row in rows
    ]
    return hypervolume(scaled, [1.0] * len(best))


def _box(first: list[Candidate], recipe: Recipe) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    done = [candidate for candidate in first if candidate.status is Status.DONE]
    counted = [candidate for candidate in done if not candidate.violated] or done
    if not counted:
        return None
    rows = [[candidate.scores[objective] for objective in recipe.search.objectives] for candidate in counted]
    best = tuple(min(column) for column in zip(*rows, strict=True))
    worst = tuple(max(column) for column in zip(*rows, strict=True))
    margins = [REFERENCE_MARGIN * ((high - low) or abs(high) or 1.0) for low, high in zip(best, worst, strict=True)]
    return best, tuple(high + margin for high, margin in zip(worst, margins, strict=True))
