"""A run held for writing: the lock, the store, the text, the workers, and the training of whatever is pending."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from star.errors import StarError
from star.genome import BackboneGenome, OptionPool
from star.machine import usable_cores
from star.synthesis.agreement import CHECKPOINTS, agreed_recipe, require_run_or_empty
from star.synthesis.calibration import TIMEOUT, Calibration, Calibrator, known_or_best
from star.synthesis.candidate import Candidate, Rung, Status
from star.synthesis.events import (
    Calibrated,
    CalibrationStarted,
    CandidateAtRung,
    CandidateFinished,
    CandidateLeft,
    CandidateLost,
    CandidateStarted,
    CandidateStep,
    CorpusProgress,
    CorpusReady,
    KernelsChanged,
    Listener,
    TextRepeated,
)
from star.synthesis.executor import Executor, TrialDone, TrialError, TrialLost, TrialStarted, TrialStep
from star.synthesis.inheritance import (
    WEIGHTS,
    Heritage,
    heritage,
    inherited,
    inherited_share,
    inherited_tokens,
    kept_names,
    weights_file,
)
from star.synthesis.local import LocalExecutor, require_limits
from star.synthesis.lock import exclusive
from star.synthesis.objectives import Architecture
from star.synthesis.recipe import Recipe
from star.synthesis.seeds import derived_seed
from star.synthesis.store import CALIBRATION, Store
from star.synthesis.trial import TRAIN_CANDIDATE, Outcome, Trial
from star.synthesis.weights import forget_weights

if TYPE_CHECKING:
    from star.data import TokenizedCorpus

WORKER_LOG = "workers.log"
MANY_TIMES = 100  # a budget of more than so many training texts deserves a warning

#: What to train next, and the pool that gives its genome a meaning; None: nothing more.
Supply = Callable[[], tuple[Candidate, OptionPool] | None]
Finish = Callable[[Candidate], None]


class BudgetSpent(Exception):
    """The deadline of a session has passed before everything was trained; what was trained is stored."""


class Session:
    """One process at work on a run; made by ``open_session``."""

    def __init__(
        self,
        run: Path,
        store: Store,
        recipe: Recipe,
        resources: ExitStack,
        *,
        workers: int | None,
        listener: Listener,
        timeout: float | None,
        trial: str,
    ) -> None:
        self.run = run
        self.store = store
        self.recipe = recipe
        self.listener = listener
        self._workers = workers
        self._resources = resources
        self._timeout = timeout
        self._trial = trial
        self.deadline: float | None = None
        """On the monotonic clock; no trial is started after it."""
        self.faults: dict[str, str] = {}
        """Candidates of the present training that could not be trained, through no fault of theirs, and why."""
        self._executor: Executor | None = None
        self._corpus: TokenizedCorpus | None = None

    @cached_property
    def workers(self) -> int:
        """Trials at once."""
        return default_workers(self.recipe) if self._workers is None else self._workers

    @property
    def pool(self) -> OptionPool:
        """The recipe's pool, and the classes that the search has derived so far."""
        return self.recipe.pool.extended(*self.store.derived())

    def keep_derived(self, pool: OptionPool) -> None:
        """Store the classes of ``pool`` that the recipe does not have, before any candidate with them is stored. They
        take the place of those that were stored for candidates which a kill has kept from being stored."""
        own = self.recipe.pool
        stored = {row.id: row for row in self.store.derived()}
        known = stored | {row.id: row for row in pool.rows if row.id not in own}
        if known != stored:
            self.store.set_derived([known[liv] for liv in sorted(known)])

    def assessed(self, candidate: Candidate, pool: OptionPool) -> Candidate:
        """The candidate with its seed and everything that is known before training."""
        recipe = self.recipe
        genome = BackboneGenome.parse(candidate.canonical)
        architecture = Architecture(genome, pool, recipe.model.width, recipe.training.length)
        static = {objective.name: objective.before_training(architecture) for objective in recipe.measures}
        return replace(
            candidate,
            seed=derived_seed(recipe.search.seed, candidate.digest),
            parameters=architecture.parameters(),
            cache_bytes=architecture.cache_bytes(recipe.cache_length),
            scores={name: value for name, value in static.items() if value is not None},
            inherited_tokens=self._inherited_tokens(candidate, pool),
        )

    def train(self, candidates: Sequence[Candidate], pools: dict[str, OptionPool], *, rung: int | None = None) -> None:
        """Train those of ``candidates`` that are pending, each over the pool of its name, and store every result.

        With a ``rung`` they are trained up to that one only, from the one before; on the last they are done.

        A candidate that fails is stored as failed and stops nobody else. One that cannot be trained for another cause
        (a full disk, a killed worker, a time-out) stays pending; StarError tells of it when the others are stored.
        """
        queue = deque(
            (candidate, pools[candidate.name]) for candidate in candidates if candidate.status is Status.PENDING
        )
        if queue:
            self.train_each(lambda: queue.popleft() if queue else None, rung=rung)
        if queue:
            raise BudgetSpent

    def train_each(self, supply: Supply, *, rung: int | None = None, finish: Finish | None = None) -> None:
        """Train what ``supply`` gives, asking it whenever a worker is free; None from it is its last word.

        ``finish`` stores a result, ``Session.finish`` if left out; what it does is done before ``supply`` is asked
        again. After the deadline nothing more is asked for. Candidates and errors as in ``train``; ``faults`` says
        meanwhile what could not be trained.
        """
        corpus, executor = self.ready_corpus(), self._ready_executor()
        finish = finish or self.finish
        running: dict[str, Candidate] = {}
        self.faults = {}

        def submit(count: int) -> None:
            # Trials wait outside the executor, so that a deadline finds nothing queued behind it.
            for _ in range(count):
                if self.deadline is not None and time.monotonic() >= self.deadline:
                    return
                if (given := supply()) is None:
                    return
                candidate, pool = given
                running[candidate.name] = candidate
                executor.submit(self._trial_of(candidate, pool, corpus, rung))

        submit(executor.workers)
        for event in executor.events():
            candidate = running[event.trial.name]
            match event:
                case TrialStarted(attempt=attempt):
                    self.listener(CandidateStarted(candidate, attempt))
                case TrialStep(report=report):
                    self.listener(CandidateStep(candidate, report))
                case TrialLost(reason=reason):
                    self.listener(CandidateLost(candidate, reason))
                case TrialDone(outcome=outcome, seconds=seconds):
                    self._keep(candidate, outcome, seconds, rung, finish)
                case TrialError(reason=reason, fault=True):
                    self.faults[candidate.name] = reason
                    self.listener(CandidateLeft(candidate, reason))
                case TrialError(reason=reason, seconds=seconds):
                    spent = seconds + (candidate.seconds or 0.0)
                    finish(replace(candidate, status=Status.FAILED, failure=reason, seconds=spent))
            if isinstance(event, (TrialDone, TrialError)):
                submit(1)
        if self.faults:
            raise self._not_trained([name for name in running if name in self.faults], self.faults)

    def _keep(self, candidate: Candidate, outcome: Outcome, seconds: float, rung: int | None, finish: Finish) -> None:
        """Store what a trial has measured: the end of a candidate, or a rung that it has reached."""
        tokens = candidate.tokens + self._trained_tokens(candidate, rung)
        done = replace(self._measured(candidate, outcome, seconds + (candidate.seconds or 0.0)), tokens=tokens)
        budgets = self.recipe.rung_tokens
        if rung is None or rung == len(budgets) - 1:
            finish(done)
            return
        reached = replace(
            candidate,
            rungs=(*candidate.rungs, Rung(budgets[rung], done.scores)),
            curve=done.curve,
            seconds=done.seconds,
            tokens=tokens,
        )
        self.store.finish(reached)
        self.listener(CandidateAtRung(reached))

    def _trained_tokens(self, candidate: Candidate, rung: int | None) -> int:
        """What a trial trains: all, or from where the decay of the rung before began."""
        training, budgets = self.recipe.training, self.recipe.rung_tokens
        if rung is None:
            return training.replace(tokens=self._budget(candidate)).steps * training.step_tokens
        before = training.replace(tokens=budgets[rung - 1]).constant_steps if rung else 0
        return (training.replace(tokens=budgets[rung]).steps - before) * training.step_tokens

    def checkpoint(self, candidate: Candidate) -> Path:
        """Where a candidate keeps its weights between rungs."""
        return self.run / CHECKPOINTS / candidate.name

    def forget_checkpoints(self, *candidates: Candidate) -> None:
        """Remove the weights of ``candidates`` that are trained no further; of all, if none are named."""
        for folder in [self.checkpoint(each) for each in candidates] or [self.run / CHECKPOINTS]:
            shutil.rmtree(folder, ignore_errors=True)

    def _inherited_tokens(self, candidate: Candidate, pool: OptionPool) -> int:
        if self.recipe.inheritance is None or not candidate.parents:
            return 0
        return inherited_tokens(candidate, self.store.named(candidate.parents), pool)

    def _heritage(self, candidate: Candidate) -> Heritage | None:
        if self.recipe.inheritance is None:
            return None
        return heritage(candidate, self.store.named(candidate.parents), self.run.resolve())

    def _budget(self, candidate: Candidate) -> int:
        """The tokens that a candidate is trained on in all: the recipe's, less a discount for what it inherits."""
        given = self._heritage(candidate)
        if given is None or not (self.recipe.inheritance and self.recipe.inheritance.discount):
            return self.recipe.training.tokens
        recipe, genome = self.recipe, BackboneGenome.parse(candidate.canonical)
        sources = inherited(genome, [BackboneGenome.parse(parent.genome) for parent in given.parents], self.pool)
        architecture = Architecture(genome, self.pool, recipe.model.width, recipe.training.length)
        return recipe.discounted(inherited_share(genome, sources, architecture.liv_parameters()))

    def tidy_weights(self, generation: int, survivors: Sequence[str]) -> None:
        """Remove the weights of candidates that have not survived ``generation``, and will have no more children."""
        if self.recipe.inheritance is not None:
            forget_weights(self.run / WEIGHTS, kept_names(survivors, generation, self.store.candidates()))

    def finish(self, candidate: Candidate) -> None:
        """Store the result of a pending candidate, then tell of it."""
        self.store.finish(candidate)
        self.listener(CandidateFinished(candidate))

    def finish_untrained(self, candidates: Sequence[Candidate]) -> None:
        """Store the pending ones of ``candidates`` as done with their static scores: no objective needs training."""
        for candidate in candidates:
            if candidate.status is Status.PENDING:
                self.finish(self.untrained(candidate))

    def untrained(self, candidate: Candidate) -> Candidate:
        """The candidate as done with its static scores."""
        return replace(candidate, status=Status.DONE, violated=self.recipe.violated(candidate.scores))

    def _not_trained(self, names: Sequence[str], reasons: dict[str, str]) -> StarError:
        first, more = names[0], len(names) - 1
        who = f"candidate {first}" if first.isdigit() else first
        others = f" (nor could {more} more)" if more else ""
        return StarError(
            f"{who} could not be trained{others}: {reasons[first]}; mend that and start the run again, it continues "
            f"(what workers printed is in {self.run / WORKER_LOG})"
        )

    def _measured(self, candidate: Candidate, outcome: Outcome, seconds: float) -> Candidate:
        trained = {
            objective.name: objective.after_training(outcome.metrics)
            for objective in self.recipe.measures
            if objective.needs_training
        }
        known = {**candidate.scores, **trained}
        scores = {objective.name: known[objective.name] for objective in self.recipe.measures}
        return replace(
            candidate,
            status=Status.DONE,
            scores=scores,
            violated=self.recipe.violated(scores),
            metrics=outcome.metrics,
            curve=outcome.curve,
            seconds=seconds,
        )

    def _trial_of(self, candidate: Candidate, pool: OptionPool, corpus: TokenizedCorpus, rung: int | None) -> Trial:
        recipe, budget = self.recipe, self._budget(candidate) if rung is None else self.recipe.rung_tokens[rung]
        whole = rung is None or rung == len(recipe.rung_tokens) - 1
        breeds = recipe.inheritance is not None and candidate.generation > 0
        return Trial(
            name=candidate.name,
            genome=candidate.canonical,
            pool=pool,
            recipe=self.recipe,
            corpus=corpus.path,
            seed=candidate.seed,
            data_seed=derived_seed(self.recipe.search.seed, "data"),
            tokens=None if rung is None and budget == recipe.training.tokens else budget,
            checkpoint=None if rung is None else self.checkpoint(candidate).resolve(),
            heritage=self._heritage(candidate),
            weights=weights_file(self.run.resolve(), candidate.name) if breeds and whole else None,
            function=self._trial,
        )

    def calibrate(self) -> None:
        """Settle what trains fastest here, if the recipe asks for it and the run has not done so before."""
        if not self.recipe.search.calibrate or self.store.fact(CALIBRATION) is not None:
            return
        self._require_matmul()
        found, log = devices(), self.run / WORKER_LOG
        calibrator = Calibrator(
            self.recipe,
            self.ready_corpus(),
            lambda workers: LocalExecutor(workers, devices=found, timeout=TIMEOUT, log=log),
        )
        # With as many workers as fit, however many there are: their number is to change no result.
        calibration = known_or_best(
            calibrator, found, default_workers(self.recipe), lambda: self.listener(CalibrationStarted())
        )
        self.store.put_facts(**{CALIBRATION: calibration.to_json()})
        self.use(calibration)
        self.listener(Calibrated(calibration))

    def use(self, calibration: Calibration) -> None:
        """Compute as a calibration says; with as many workers, where the caller has not said how many."""
        self.recipe = calibration.setting.applied(self.recipe)
        if self._workers is None:
            self._workers = calibration.setting.workers
            self.__dict__.pop("workers", None)

    def _require_matmul(self) -> None:
        """StarError here, rather than from each trial, where the recipe's library for products cannot be used."""
        import torch

        from star.training.precision import require_matmul

        try:
            for device in devices():
                require_matmul(self.recipe.training.matmul, torch.device(device))
        except StarError as error:
            if self.store.fact(CALIBRATION) is None:
                raise
            raise StarError(
                f"the run {str(self.run)!r} was calibrated on another CPU to multiply by oneDNN, whose products are "
                "not float32 here; continue it there, or start a new run"
            ) from error

    def _settle_kernels(self) -> None:
        """Compile what can be compiled before workers start, and note what the run computes with."""
        from star.liv.kernels import fingerprint

        now, before = fingerprint(devices()[0]), self.store.fact("kernels")
        if before is None:
            self.store.put_facts(kernels=now)
        elif before != now:
            self.listener(KernelsChanged(before, now))

    def _ready_executor(self) -> Executor:
        if self._executor is None:
            if self._trial == TRAIN_CANDIDATE:  # other trials may have nothing to do with torch
                self._require_matmul()
                self._settle_kernels()
            self._executor = LocalExecutor(
                self.workers, devices=devices(), timeout=self._timeout, log=self.run / WORKER_LOG
            )
            self._resources.callback(self._executor.close)
        return self._executor

    def ready_corpus(self) -> TokenizedCorpus:
        """The tokens, prepared or found in the cache, and the same as on the first start of this run."""
        if self._corpus is not None:
            return self._corpus
        from star.data import prepare

        recipe = self.recipe
        corpus = prepare(
            recipe.data,
            length=recipe.training.length,
            progress=lambda stage, done, total: self.listener(CorpusProgress(stage, done, total)),
        )
        known = self.store.fact("corpus_digest")
        if known is not None and known != corpus.digest:
            raise StarError(
                f"the text of data.source = {recipe.data.source!r} is not the one that the run {str(self.run)!r} began "
                f"with (it was: {self.store.fact('corpus_description')}); restore it, or start a new run"
            )
        self.store.put_facts(corpus_digest=corpus.digest, corpus_description=corpus.description)
        self.listener(CorpusReady(corpus.description, len(corpus.train), len(corpus.validation)))
        if (times := recipe.training.tokens / len(corpus.train)) > MANY_TIMES:
            self.listener(TextRepeated(times))
        self._corpus = corpus
        return corpus


@contextmanager
def open_session(
    run: Path,
    recipe: Recipe | None,
    *,
    workers: int | None,
    listener: Listener,
    timeout: float | None = None,
    trial: str = TRAIN_CANDIDATE,
) -> Iterator[Session]:
    """Hold ``run`` for writing; on the way out, however it is taken, workers end and the lock is released.

    Raises StarError if another process holds the run, or if ``recipe`` is not the one that it began with.
    """
    require_limits(workers, timeout)
    with ExitStack() as resources:
        try:
            require_run_or_empty(run)
            run.mkdir(parents=True, exist_ok=True)
            resources.enter_context(exclusive(run))
        except OSError as error:
            raise StarError(f"the run directory {str(run)!r} cannot be used: {error.strerror or error}") from None
        store = resources.enter_context(Store.create(run))
        agreed = agreed_recipe(store, recipe, run)
        session = Session(
            run,
            store,
            agreed,
            resources,
            workers=workers,
            listener=listener,
            timeout=timeout,
            trial=trial,
        )
        if (calibration := store.fact(CALIBRATION)) is not None:
            session.use(Calibration.from_json(calibration))
        yield session


def devices() -> list[str]:
    """Every CUDA device, or the CPU where there is none."""
    import torch

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]


def default_workers(recipe: Recipe) -> int:
    """One for each CUDA device; without any, as many as the cores carry at the recipe's threads for each."""
    found = devices()
    return len(found) if found != ["cpu"] else max(1, usable_cores() // recipe.training.threads)
