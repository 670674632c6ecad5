"""Baselines under the run's own recipe: same text, same tokens, same depth and width (paper A.3)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from star.genome import BASELINES, preset
from star.synthesis.candidate import Candidate, Status
from star.synthesis.events import GenerationStarted, Listener, nobody
from star.synthesis.run import Run
from star.synthesis.session import Session, open_session
from star.synthesis.trial import TRAIN_CANDIDATE


def compare(
    run: Run | Path | str,
    *,
    workers: int | None = None,
    listener: Listener | None = None,
    timeout: float | None = None,
    trial: str = TRAIN_CANDIDATE,
) -> Run:
    """Train the presets that the run lacks as ``Run.baselines``, each exactly as a candidate is trained.

    Where no objective needs training, nothing is trained. What is stored stays, and a preset that the search has
    trained from scratch as one of its candidates takes over that result. The arguments are those of ``evolve``. Raises
    StarError if the run does not exist or is in use.
    """
    path = run.path if isinstance(run, Run) else Path(run)
    Run.open(path).close()  # a directory without a run is refused, not made into one
    with open_session(
        path, None, workers=workers, listener=listener or nobody, timeout=timeout, trial=trial
    ) as session:
        for name in BASELINES:
            _require_listed(session, name)
        baselines, twins = session.store.candidates(generation=0), _twins(session)
        if not session.recipe.needs_training:
            session.listener(GenerationStarted(0, tuple(baselines)))
            session.finish_untrained(baselines)
            return Run.open(path)
        if any(baseline.status is Status.PENDING and baseline.digest not in twins for baseline in baselines):
            session.ready_corpus()  # a text that cannot be read is told before anything is announced
        session.listener(GenerationStarted(0, tuple(baselines)))
        _adopt_twins(session)
        pending = [baseline for baseline in session.store.candidates(generation=0) if baseline.status is Status.PENDING]
        distinct = {baseline.digest: baseline for baseline in reversed(pending)}  # shallow presets can be the same
        pools = {name: preset(name, session.recipe.model.depth)[1] for name in BASELINES}
        session.train([*distinct.values()][::-1], pools)
        _adopt_twins(session)
    return Run.open(path)


def _require_listed(session: Session, name: str) -> None:
    if any(baseline.name == name for baseline in session.store.candidates(generation=0)):
        return
    genome, pool = preset(name, session.recipe.model.depth)
    canonical = str(genome.canonical(pool))
    baseline = Candidate(name=name, genome=str(genome), canonical=canonical, digest=genome.digest(pool), seed=0)
    session.store.add([session.assessed(baseline, pool)])


def _twins(session: Session) -> dict[str, Candidate]:
    """By digest, what the run has trained from scratch, with the failures among the baselines."""
    return {
        other.digest: other
        for other in [*session.store.candidates(), *session.store.candidates(generation=0)]
        if (other.metrics and not other.inherited_tokens) or (other.status is Status.FAILED and other.generation == 0)
    }


def _adopt_twins(session: Session) -> None:
    """Give pending baselines the result of the same architecture, and so of the same seed, where that was trained."""
    trained = _twins(session)
    for baseline in session.store.candidates(generation=0):
        if baseline.status is Status.PENDING and (twin := trained.get(baseline.digest)) is not None:
            session.finish(replace(twin, name=baseline.name, genome=baseline.genome, parents=(), generation=0))
