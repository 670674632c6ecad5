"""What searches with and without generations share: newborns become candidates, survivors a stored population."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from star.errors import StarError
from star.evolution import Algorithm, Individual
from star.synthesis.candidate import Candidate, Status
from star.synthesis.events import GenerationFinished
from star.synthesis.recipe import Recipe
from star.synthesis.run import dominated_share
from star.synthesis.session import Session


def newborn(
    session: Session, born: Sequence[Individual], names: Mapping[str, str], *, bred_after: int | None = None
) -> list[Candidate]:
    """Candidates in the order asked, with their static scores. ``names`` are those of all earlier ones by digest."""
    pool = session.pool
    return [
        session.assessed(
            Candidate(
                name=str(number),
                genome=str(individual.genome),
                canonical=str(individual.genome.canonical(pool)),
                digest=individual.digest,
                seed=0,
                parents=tuple(names[parent] for parent in individual.parents),
                generation=individual.generation,
                bred_after=bred_after,
            ),
            pool,
        )
        for number, individual in enumerate(born, start=len(names) + 1)
    ]


def keep_population(session: Session, algorithm: Algorithm, generation: int, names: Mapping[str, str]) -> None:
    """Store the algorithm's population as that of ``generation`` and tell of it; StarError if another one is stored."""
    store, recipe = session.store, session.recipe
    survivors = [names[individual.digest] for individual in algorithm.population]
    stored = [candidate.name for candidate in store.population(generation)]
    if not stored:
        store.set_population(generation, survivors)
    elif stored != survivors:
        raise not_reproducible(session.run, generation)
    if generation == store.generations():  # a replayed one has no more to remove
        session.tidy_weights(generation, survivors)
    population = store.population(generation)
    volume = dominated_share(population, store.candidates(generation=1), recipe)
    session.listener(GenerationFinished(generation, tuple(population), volume))


def require_a_survivor(candidates: Sequence[Candidate], generation: int) -> None:
    """StarError if all candidates of the generation failed."""
    if all(candidate.status is Status.FAILED for candidate in candidates):
        (reason, count), *_ = Counter(candidate.failure for candidate in candidates).most_common(1)
        raise StarError(
            f"all {len(candidates)} candidates of generation {generation} failed, {count} of them because: {reason}. "
            "Mend the recipe and start a new run"
        )


def nothing_admitted(recipe: Recipe) -> StarError:
    """The error of a search in which no genome keeps to the constraints."""
    return StarError(
        f"no random genome of {recipe.model.depth} LIVs at width {recipe.model.width} keeps to "
        f"search.constraints = {', '.join(recipe.search.constraints)}; loosen them, or change depth or width"
    )


def not_reproducible(run: Path, generation: int) -> StarError:
    """The error of a stored run that the algorithm would not have made."""
    return StarError(
        f"generation {generation} of the run {str(run)!r} does not follow from its recipe: another version of STAR "
        "made it; continue it with that version, or start a new run"
    )
