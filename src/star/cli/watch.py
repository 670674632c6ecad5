"""What there is to know about a running search or comparison, from its events. No rendering."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from star.synthesis.candidate import Candidate, Status
from star.synthesis.events import (
    CandidateAtRung,
    CandidateFinished,
    CandidateLeft,
    CandidateLost,
    CandidateStarted,
    CandidateStep,
    CorpusReady,
    Event,
    GenerationStarted,
    SearchFinished,
    SearchStarted,
)

if TYPE_CHECKING:
    from star.synthesis.recipe import SearchRecipe
    from star.training import StepReport

Clock = Callable[[], float]


@dataclass
class Pace:
    """The time that remaining work takes, from the work done since `restart`."""

    clock: Clock = time.monotonic
    began: float = field(init=False)
    before: float = 0.0

    def __post_init__(self) -> None:
        self.began = self.clock()

    def restart(self, done: float) -> None:
        """What is done already says nothing about the pace."""
        self.began, self.before = self.clock(), done

    def remaining(self, done: float, total: float) -> float | None:
        """Seconds until `total`; None before anything is done."""
        if done <= self.before:
            return 0.0 if done >= total else None
        return (self.clock() - self.began) * (total - done) / (done - self.before)


@dataclass
class Watch:
    """Counts of candidates, in flight and finished, and the time left. Feed it every event."""

    pace: Pace = field(default_factory=Pace)
    total: int = 0
    finished: int = 0
    failed: int = 0
    generation: int = 0
    running: dict[str, StepReport | None] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        match event:
            case SearchStarted(recipe=recipe, finished=finished):
                self.total = planned_candidates(recipe.search)
                self.finished, self.failed, self.generation = finished, 0, 0
                self.pace.restart(finished)
            case GenerationStarted(generation=0, candidates=baselines):
                self.total = len(baselines)
                self.finished = sum(baseline.status is not Status.PENDING for baseline in baselines)
                self.pace.restart(self.finished)
            case GenerationStarted(generation=generation):
                self.generation = generation
            case CorpusReady():
                self.pace.restart(self.done)  # reading the text says nothing about the pace of training
            case CandidateStarted(candidate=candidate):
                self.running[candidate.name] = None
            case CandidateStep(candidate=candidate, report=report):
                self.running[candidate.name] = report
            case (
                CandidateLost(candidate=candidate)
                | CandidateLeft(candidate=candidate)
                | CandidateAtRung(candidate=candidate)
            ):
                self.running.pop(candidate.name, None)
            case CandidateFinished(candidate=candidate):
                trained = self.running.pop(candidate.name, self) is not self
                self.finished += 1
                self.failed += candidate.status is Status.FAILED
                if not trained:  # a result taken over from a twin costs no time
                    self.pace.restart(self.done)
            case SearchFinished():
                self.total = self.finished  # fewer than planned where no new architecture was left

    @property
    def done(self) -> float:
        """Finished candidates, and the shares of those in flight that are trained."""
        return self.finished + sum(share(report) for report in self.running.values())

    @property
    def seconds_left(self) -> float | None:
        """Until all candidates are finished; None while that is unknown."""
        return self.pace.remaining(self.done, self.total)


def share(report: StepReport | None) -> float:
    """How much of a training is done, 0 to 1."""
    return 0.0 if report is None else report.tokens / report.total_tokens


def planned_candidates(search: SearchRecipe) -> int:
    """Candidates of a whole search: a population, then generations that keep the elites."""
    return search.population + (search.generations - 1) * (search.population - search.elites)


def duration(seconds: float | None) -> str:
    """75 as ``1 min 15 s``; the two greatest units."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def summary(candidate: Candidate) -> str:
    """How a candidate ended, in one line."""
    from star.synthesis.objectives import format_bytes, format_count

    if candidate.status is Status.FAILED:
        return f"failed: {candidate.failure}"
    if candidate.status is Status.STOPPED:
        rung = candidate.rungs[-1]
        seen = f", perplexity {rung.scores['perplexity']:.3f} there" if "perplexity" in rung.scores else ""
        return f"stopped at the rung of {rung.tokens:,} tokens{seen}"
    size = f"{format_count(candidate.parameters)} parameters, {format_bytes(candidate.cache_bytes)} cache"
    quality = "" if candidate.perplexity is None else f"perplexity {candidate.perplexity:.3f}, "
    broken = f"; infeasible, it breaks {' and '.join(candidate.violated)}" if candidate.violated else ""
    return f"{quality}{size}{broken}"
