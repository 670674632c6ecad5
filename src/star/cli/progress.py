"""Progress on stderr: live bars with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from star.cli.console import stderr
from star.cli.watch import Watch, duration, share, summary
from star.synthesis.candidate import Candidate, Status
from star.synthesis.events import (
    Calibrated,
    CalibrationStarted,
    CandidateAtRung,
    CandidateFinished,
    CandidateLeft,
    CandidateLost,
    CandidateStarted,
    CandidateStep,
    ConditionStarted,
    CorpusProgress,
    CorpusReady,
    Event,
    GenerationFinished,
    GenerationStarted,
    HalvingOff,
    KernelsChanged,
    Listener,
    RungsCompared,
    SearchFinished,
    SearchPaused,
    SearchStarted,
    TextRepeated,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from star.data import Progress as CorpusListener
    from star.training import StepReport

LINES = 20  # that a training writes into a log


@contextmanager
def search_progress(what: str) -> Iterator[Listener]:
    """A listener for a search or comparison; `what` is counted ("candidates", "baselines")."""
    console = stderr()
    if not console.is_terminal:
        yield _Log(console)
        return
    with bars(console) as progress:
        yield _Bars(progress, what)


@contextmanager
def training_progress(name: str) -> Iterator[Callable[[StepReport], None]]:
    """A listener for the steps of one training."""
    console = stderr()
    if not console.is_terminal:
        yield _TrainingLog(console, name)
        return
    with bars(console) as progress:
        task = progress.add_task(name, total=None, note="")

        def step(report: StepReport) -> None:
            progress.update(
                task,
                completed=report.tokens,
                total=report.total_tokens,
                note=f"loss {report.loss:.3f}, {_speed(report)}, {duration(report.eta_seconds)} left",
            )

        yield step


@contextmanager
def corpus_progress() -> Iterator[CorpusListener]:
    """A listener for the preparation of a corpus."""
    console = stderr()
    if not console.is_terminal:
        log = _Log(console)
        yield lambda stage, done, total: log(CorpusProgress(stage, done, total))
        return
    with bars(console) as progress:
        shown = _Bars(progress, "")
        yield lambda stage, done, total: shown(CorpusProgress(stage, done, total))


@contextmanager
def bars(console: Console) -> Iterator[Progress]:
    """Live bars, each with a description and a note; they vanish at the end."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        transient=True,
        refresh_per_second=4,
    ) as progress:
        yield progress


class _Bars:
    """One bar for everything, and below it one for each training in flight."""

    def __init__(self, progress: Progress, what: str) -> None:
        self._progress, self._what = progress, what
        self._watch = Watch()
        self._overall: TaskID | None = None
        self._tasks: dict[str, TaskID] = {}
        self._corpus: tuple[str, TaskID] | None = None

    def __call__(self, event: Event) -> None:
        self._watch(event)
        match event:
            case CorpusProgress(stage=stage, done=done, total=total):
                self._show_corpus(stage, done, total)
                return
            case CorpusReady():
                self._hide_corpus()
            case CandidateStarted(candidate=candidate):
                self._tasks[candidate.name] = self._progress.add_task(_label(candidate), total=1.0, note="")
            case CandidateStep(candidate=candidate, report=report):
                note = f"loss {report.loss:.3f}, {duration(report.eta_seconds)} left"
                self._progress.update(self._tasks[candidate.name], completed=share(report), note=note)
            case (
                CandidateLost(candidate=candidate)
                | CandidateLeft(candidate=candidate)
                | CandidateAtRung(candidate=candidate)
                | CandidateFinished(candidate=candidate)
            ):
                if (task := self._tasks.pop(candidate.name, None)) is not None:
                    self._progress.remove_task(task)
        if (line := _remark(event)) is not None:
            self._progress.console.print(line)
        self._show_overall()

    def _show_overall(self) -> None:
        watch = self._watch
        if not watch.total:
            return
        if self._overall is None:
            self._overall = self._progress.add_task(self._what, total=watch.total, note="")
        note = f"{watch.finished} of {watch.total}"
        if watch.failed:
            note += f", {watch.failed} failed"
        self._progress.update(
            self._overall,
            completed=watch.done,
            total=watch.total,
            description=f"generation {watch.generation}" if watch.generation else self._what,
            note=f"{note}, {duration(watch.seconds_left)} left",
        )

    def _show_corpus(self, stage: str, done: int, total: int | None) -> None:
        if self._corpus is None or self._corpus[0] != stage:
            self._hide_corpus()
            self._corpus = (stage, self._progress.add_task(stage, total=total, note=""))
        self._progress.update(self._corpus[1], completed=done, total=total, note=f"{done / 1e6:.1f} MB")

    def _hide_corpus(self) -> None:
        if self._corpus is not None:
            self._progress.remove_task(self._corpus[1])
            self._corpus = None


class _Log:
    """A line for each candidate, generation and stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._watch = Watch()
        self._stage: str | None = None

    def __call__(self, event: Event) -> None:
        self._watch(event)
        match event:
            case CorpusProgress(stage=stage) if stage != self._stage:
                self._stage = stage
                self._line(stage)
            case CandidateFinished(candidate=candidate):
                watch = self._watch
                left = "" if watch.finished == watch.total else f"; {duration(watch.seconds_left)} left"
                self._line(f"[{watch.finished}/{watch.total}] {_label(candidate)}: {summary(candidate)}{left}")
            case _:
                if (line := _remark(event)) is not None:
                    self._line(line)

    def _line(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


class _TrainingLog:
    """About twenty lines for a whole training."""

    def __init__(self, console: Console, name: str) -> None:
        self._console, self._name = console, name
        self._told = 0

    def __call__(self, report: StepReport) -> None:
        part = LINES * report.step // report.steps
        if part > self._told:
            self._told = part
            self._console.print(
                f"{self._name}: {100 * report.step // report.steps} %, step {report.step} of {report.steps}, "
                f"loss {report.loss:.3f}, {_speed(report)}, {duration(report.eta_seconds)} left",
                soft_wrap=True,
            )


def _remark(event: Event) -> str | None:
    """What deserves a line, with or without bars."""
    match event:
        case ConditionStarted(condition=condition, place=place, total=total):
            return f"condition {condition} ({place} of {total})"
        case SearchStarted(finished=finished, workers=workers):
            training = f"{workers} at a time" if workers > 1 else "one at a time"
            return f"continuing after {finished} candidates, {training}" if finished else f"candidates train {training}"
        case CorpusReady(description=text, train_tokens=train, validation_tokens=held_out):
            return f"text: {text}; {train:,} tokens to train on, {held_out:,} held out"
        case CalibrationStarted():
            return "calibrating: training for some seconds with several settings, to find the fastest here"
        case Calibrated(calibration=calibration):
            return f"calibrated: {calibration.setting}"
        case KernelsChanged(before=before, now=now):
            return (
                f"notice: the run began with other kernels ({before}) than there are here ({now}); results may differ "
                "in the last digits"
            )
        case TextRepeated(times=times):
            return f"warning: each candidate reads the text {times:,.0f} times over; give more text or fewer tokens"
        case GenerationStarted(generation=generation, candidates=candidates) if generation:
            left = sum(candidate.status is Status.PENDING for candidate in candidates)
            return f"generation {generation}: {left} of {len(candidates)} candidates to train" if left else None
        case CandidateLost(candidate=candidate, reason=reason):
            return f"{_label(candidate)}: {reason}; it is tried again"
        case CandidateLeft(candidate=candidate, reason=reason):
            return f"{_label(candidate)} could not be trained: {reason}"
        case CandidateFinished(candidate=candidate) if candidate.status is Status.FAILED:
            return f"{_label(candidate)} {summary(candidate)}"
        case GenerationFinished(generation=generation, population=population, hypervolume=volume):
            measured = [candidate.perplexity for candidate in population if candidate.perplexity is not None]
            best = f"best perplexity {min(measured):.3f}, " if measured else ""
            return f"generation {generation} done: {best}hypervolume {volume:.3f}"
        case RungsCompared(tokens=tokens, candidates=count, correlation=correlation) if correlation is not None:
            return f"{tokens:,} tokens foretell the whole budget with rank correlation {correlation:.2f} over {count}"
        case HalvingOff(correlation=correlation, least=least):
            seen = "unknown for want of candidates" if correlation is None else f"{correlation:.2f}"
            return (
                f"notice: halving is off, because that correlation is {seen} and must be {least:.2f}; every candidate "
                "gets the whole budget"
            )
        case SearchPaused(generations=generations):
            return f"the time is over after {generations} whole generations"
        case SearchFinished(generations=generations, exhausted=True):
            return f"no new architecture is left after generation {generations}: the search ends here"
        case _:
            return None


def _label(candidate: Candidate) -> str:
    return candidate.name if candidate.id is None else f"candidate {candidate.id}"


def _speed(report: StepReport) -> str:
    return f"{report.tokens_per_second:,.0f} tokens/s"
