"""The search as a job: ask, train, tell, store; killed at any moment and started again, it ends the same."""

from __future__ import annotations

import time
from pathlib import Path

from star.evolution import Algorithm, SteadyStateNSGA2, Surrogate, algorithm_class
from star.genome import BackboneGenome
from star.synthesis.births import keep_population, newborn, not_reproducible, nothing_admitted, require_a_survivor
from star.synthesis.candidate import Candidate, Status
from star.synthesis.events import (
    GenerationStarted,
    Listener,
    SearchFinished,
    SearchPaused,
    SearchStarted,
    nobody,
)
from star.synthesis.halving import halving_works, tell_rungs, train_in_rungs
from star.synthesis.measures import own_function
from star.synthesis.objectives import PYTHON
from star.synthesis.recipe import Recipe
from star.synthesis.run import Run, score_row
from star.synthesis.seeds import derived_seed
from star.synthesis.server import start_server
from star.synthesis.session import BudgetSpent, Session, open_session
from star.synthesis.steady import SteadySearch
from star.synthesis.trial import TRAIN_CANDIDATE


def evolve(
    recipe: Recipe | str | Path | None = None,
    *,
    run: Path | str | None = None,
    workers: int | None = None,
    listener: Listener | None = None,
    timeout: float | None = None,
    budget: float | None = None,
    trial: str = TRAIN_CANDIDATE,
) -> Run:
    """Search for architectures and keep everything in the directory ``run``; an existing run is continued.

    A continued run ends with the population that an undisturbed one has, and nothing that is done is trained again.
    A larger ``search.generations`` extends a finished run. The result does not depend on ``workers``, unless
    ``search.mode`` is steady state: with several workers it then depends on which of them is ready first.

    Args:
        recipe: a recipe, the name of one (see ``Recipe.names``) or a TOML file; None continues with the run's own.
        run: the run directory; None makes a new one below ``runs``, named after the time.
        workers: trials at once; None: one for each CUDA device, or as many as fill the cores.
        listener: is told of everything that happens, in this process and thread.
        timeout: seconds after which a trial is killed; its candidate stays pending, and the search ends with an error.
        budget: seconds after which no further trial is started; those that run are finished and stored, and the run can
            be continued like an interrupted one.
        trial: what scores a candidate, as ``module:function`` (see ``Trial.function``).

    Raises StarError for a bad recipe, a run that is in use or that began with another recipe or text, a generation in
    which every candidate failed, or one that could not be trained whole, through the fault of the machine: the others
    that were bred by then are stored, and starting again continues. On KeyboardInterrupt, workers end and the run can
    be continued.
    """
    if isinstance(recipe, (str, Path)):
        recipe = Recipe.load(recipe)
    path = Path("runs") / time.strftime("%Y%m%d-%H%M%S") if run is None else Path(run)
    tell = listener or nobody
    with open_session(path, recipe, workers=workers, listener=tell, timeout=timeout, trial=trial) as session:
        session.deadline = None if budget is None else time.monotonic() + budget
        for objective in session.recipe.measures:
            if objective.kind.name == PYTHON:
                own_function(objective)  # a name that is misspelt is told before anything is trained
        if session.recipe.needs_training and session.store.generations() < session.recipe.search.generations:
            start_server()  # it imports torch while this process does, too
            if trial == TRAIN_CANDIDATE:
                session.calibrate()
        finished = sum(candidate.status is not Status.PENDING for candidate in session.store.candidates())
        tell(SearchStarted(path, session.recipe, session.workers, finished))
        algorithm = _algorithm(session.recipe)
        exhausted = False
        try:
            if isinstance(algorithm, SteadyStateNSGA2):
                exhausted = SteadySearch(session, algorithm).run()
            while algorithm.generation < session.recipe.search.generations and not exhausted:
                exhausted = not _generation(session, algorithm)
        except BudgetSpent:
            tell(SearchPaused(algorithm.generation))
            return Run.open(path)
        if exhausted:
            session.store.put_facts(exhausted=str(algorithm.generation))
        tell(SearchFinished(session.store.generations(), exhausted))
    return Run.open(path)


def _algorithm(recipe: Recipe) -> Algorithm:
    search = recipe.search
    return algorithm_class(search.algorithm, search.mode)(
        recipe.pool,
        depth=recipe.model.depth,
        population_size=search.population,
        objectives=len(search.objectives),
        seed=derived_seed(search.seed, "search"),
        mutation=search.mutation,
        crossover_points=search.crossover_points,
        elites=search.elites,
        tournament=search.tournament,
        admit=recipe.admits if search.constraints else None,
        fits=recipe.fits,
        screen=_screen(recipe),
        initial=[BackboneGenome.parse(text) for text in search.initial],
    )


def _screen(recipe: Recipe) -> Surrogate | None:
    if recipe.surrogate is None:
        return None
    settings = recipe.surrogate
    return Surrogate(recipe.pool, factor=settings.factor, random_share=settings.random_share, known=recipe.known_scores)


def _generation(session: Session, algorithm: Algorithm) -> bool:
    """Carry one generation from ``ask`` to the stored population; False if there was nothing new to ask.

    A generation that is stored already is replayed: the algorithm hears the stored scores, in the same order.
    """
    store, recipe, tell = session.store, session.recipe, session.listener
    generation = algorithm.generation + 1
    genomes = algorithm.ask()
    if not genomes:
        if generation == 1:
            raise nothing_admitted(recipe)
        return False
    session.keep_derived(algorithm.pool)
    candidates = store.candidates(generation)
    if recipe.needs_training and (not candidates or _any_pending(candidates)):
        session.ready_corpus()  # a text that cannot be read is told before anything is announced
    if not candidates:
        candidates = newborn(session, algorithm.pending, {each.digest: each.name for each in store.candidates()})
        store.add(candidates)
    elif [candidate.digest for candidate in candidates] != [born.digest for born in algorithm.pending]:
        raise not_reproducible(session.run, generation)
    tell(GenerationStarted(generation, tuple(candidates)))
    in_rungs = recipe.halving is not None and (generation == 1 or halving_works(store.candidates(generation=1), recipe))
    if in_rungs:
        train_in_rungs(session, generation, store.population(generation - 1))
        tell_rungs(session, generation)
    elif recipe.needs_training:
        session.train(candidates, dict.fromkeys((candidate.name for candidate in candidates), session.pool))
    else:
        session.finish_untrained(candidates)
    candidates = store.candidates(generation)
    require_a_survivor(candidates, generation)

    algorithm.tell(genomes, [score_row(candidate, recipe.search.objectives) for candidate in candidates])
    keep_population(session, algorithm, generation, {each.digest: each.name for each in store.candidates()})
    return True


def _any_pending(candidates: list[Candidate]) -> bool:
    return any(candidate.status is Status.PENDING for candidate in candidates)
