"""When a training has failed: non-finite numbers, or a loss that explodes and stays up. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

SMOOTHING = 0.9  # of the running mean: about the last ten steps
TOLERATED_FACTOR = 1.5
TOLERATED_NATS = 1.0


class Diverged(Exception):
    """A training that cannot recover. It ends this candidate and says nothing about others."""

    def __init__(self, reason: str, step: int | None = None) -> None:
        super().__init__(reason, step)
        self.reason = reason
        self.step = step

    def __str__(self) -> str:
        return self.reason if self.step is None else f"{self.reason} at step {self.step}"


@dataclass
class LossMonitor:
    """Watches the loss of a training, step by step; its fields are all the state that a checkpoint must keep.

    A training has exploded when its smoothed loss exceeds 1.5 times the best smoothed loss so far plus 1 nat. From a
    byte-level loss of 2.5 that is 4.75: between what unlucky batches and short spikes reach (one step counts a tenth)
    and what a model knows that has forgotten everything (log 257 = 5.55).
    """

    average: float = 0.0  # exponential, not yet corrected for its start at zero
    steps: int = 0
    best: float = math.inf

    @property
    def smoothed(self) -> float:
        """The running mean of the loss; NaN before the first step."""
        return self.average / (1 - SMOOTHING**self.steps) if self.steps else math.nan

    def check(self, loss: float, gradient_norm: float, step: int) -> None:
        """Takes in the loss (nats a token) and the gradient norm of one step.

        Raises:
            Diverged: either is not finite, or the loss has exploded.
        """
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss}", step)
        if not math.isfinite(gradient_norm):
            raise Diverged(f"the gradient norm is {gradient_norm}", step)
        self.average = SMOOTHING * self.average + (1 - SMOOTHING) * loss
        self.steps += 1
        self.best = min(self.best, self.smoothed)
        if self.smoothed > TOLERATED_FACTOR * self.best + TOLERATED_NATS:
            raise Diverged(f"the loss exploded from {self.best:.2f} to {self.smoothed:.2f}", step)
