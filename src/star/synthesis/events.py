"""What a search or comparison tells while it runs: the only way to watch it, since nothing here prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from star.synthesis.calibration import Calibration
from star.synthesis.candidate import Candidate
from star.synthesis.recipe import Recipe

if TYPE_CHECKING:
    from star.training import StepReport


@dataclass(frozen=True)
class ConditionStarted:
    """Of an ablation: the search of the ``place``-th of ``total`` conditions begins."""

    condition: str
    place: int
    total: int


@dataclass(frozen=True)
class SearchStarted:
    """The run is open and locked; ``finished`` candidates need no training any more."""

    run: Path
    recipe: Recipe
    workers: int
    finished: int


@dataclass(frozen=True)
class CorpusProgress:
    """Text is being read or tokenised: bytes done, bytes in all where known."""

    stage: str
    done: int
    total: int | None


@dataclass(frozen=True)
class CorpusReady:
    """What candidates are trained on."""

    description: str
    train_tokens: int
    validation_tokens: int


@dataclass(frozen=True)
class CalibrationStarted:
    """Some candidates are trained for seconds, to see what is fastest here."""


@dataclass(frozen=True)
class Calibrated:
    """How this run trains from now on, measured or remembered."""

    calibration: Calibration


@dataclass(frozen=True)
class KernelsChanged:
    """The run began with other implementations of its operators, or on another kind of CPU: results that follow are
    rounded differently. Both as `star.liv.kernels.fingerprint` names them."""

    before: str
    now: str


@dataclass(frozen=True)
class TextRepeated:
    """A warning: the budget of each candidate is so many ``times`` the training text."""

    times: float


@dataclass(frozen=True)
class GenerationStarted:
    """All candidates of a generation, those of an earlier start of this run with their results; none for the later
    generations of a search in steady state, whose candidates are bred one by one."""

    generation: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class CandidateStarted:
    """A worker trains it now; ``attempt`` 2 after the death of its first worker."""

    candidate: Candidate
    attempt: int


@dataclass(frozen=True)
class CandidateStep:
    """One optimiser step of a candidate: ``report`` has step, steps, tokens, loss and speed."""

    candidate: Candidate
    report: StepReport


@dataclass(frozen=True)
class CandidateLost:
    """Its worker died; it will be tried again."""

    candidate: Candidate
    reason: str


@dataclass(frozen=True)
class CandidateLeft:
    """It could not be trained, through no fault of its own, and stays pending."""

    candidate: Candidate
    reason: str


@dataclass(frozen=True)
class CandidateAtRung:
    """It has reached the rung ``candidate.rungs[-1]``, and that is stored; it may be trained further."""

    candidate: Candidate


@dataclass(frozen=True)
class RungsCompared:
    """How well the scores at a rung foretold those after the whole budget: Spearman's ρ over the ``candidates`` of the
    generation that have both, the least over the trained objectives; None for too few. In later generations only the
    promoted have both, which makes it smaller than over all."""

    generation: int
    tokens: int
    candidates: int
    correlation: float | None


@dataclass(frozen=True)
class HalvingOff:
    """A notice: rungs foretell too little, so every candidate gets the whole budget from now on."""

    correlation: float | None
    least: float


@dataclass(frozen=True)
class CandidateFinished:
    """It is done, or failed (see ``candidate.status``), and that is stored."""

    candidate: Candidate


@dataclass(frozen=True)
class GenerationFinished:
    """The survivors, best first, and the volume that they dominate (see ``Run.hypervolumes``)."""

    generation: int
    population: tuple[Candidate, ...]
    hypervolume: float


@dataclass(frozen=True)
class SearchFinished:
    """All generations are done. ``exhausted``: earlier than asked, as no new architecture is left."""

    generations: int
    exhausted: bool


@dataclass(frozen=True)
class SearchPaused:
    """The time that it was given is over, with so many generations done; starting the run again continues it."""

    generations: int


Event = (
    ConditionStarted
    | SearchStarted
    | CorpusProgress
    | CorpusReady
    | CalibrationStarted
    | Calibrated
    | KernelsChanged
    | TextRepeated
    | GenerationStarted
    | CandidateStarted
    | CandidateStep
    | CandidateLost
    | CandidateLeft
    | CandidateAtRung
    | RungsCompared
    | HalvingOff
    | CandidateFinished
    | GenerationFinished
    | SearchFinished
    | SearchPaused
)
Listener = Callable[[Event], None]


def nobody(event: Event) -> None:
    """The listener of a search that nobody watches."""
