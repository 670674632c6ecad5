"""What runs trials: the protocol, and what it tells. ``local`` is the implementation for one machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from star.synthesis.trial import Outcome, Trial

if TYPE_CHECKING:
    from star.training import StepReport


@dataclass(frozen=True)
class TrialStarted:
    """A worker has begun (again, if ``attempt`` is not 1)."""

    trial: Trial
    attempt: int = 1


@dataclass(frozen=True)
class TrialStep:
    """One optimiser step of a running trial."""

    trial: Trial
    report: StepReport


@dataclass(frozen=True)
class TrialDone:
    """A trial has been measured."""

    trial: Trial
    outcome: Outcome
    seconds: float


@dataclass(frozen=True)
class TrialLost:
    """A worker died under a trial, which will be tried again."""

    trial: Trial
    reason: str


@dataclass(frozen=True)
class TrialError:
    """A trial ended without an outcome: ``reason`` in one line.

    ``fault``: not the candidate's doing, such as a full disk, a killed worker or a time-out; it says nothing about it.
    """

    trial: Trial
    reason: str
    seconds: float
    fault: bool = False


TrialEvent = TrialStarted | TrialStep | TrialDone | TrialLost | TrialError


class Executor(Protocol):
    """Runs trials somewhere. Each submitted trial ends in exactly one ``TrialDone`` or ``TrialError``."""

    workers: int
    """How many trials run at once."""

    def submit(self, trial: Trial) -> None:
        """Queue a trial; the first submitted starts first."""
        ...

    def events(self) -> Iterator[TrialEvent]:
        """What happens, until no trial is queued or running; more may be submitted while this is read."""
        ...

    def close(self) -> None:
        """End everything at once: queued trials are dropped, running ones killed. Safe to call twice."""
        ...
