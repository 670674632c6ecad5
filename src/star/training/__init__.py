"""Training: AdamW, schedule, divergence, exact resume. Importing this package imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from star.training.divergence import Diverged
from star.training.recipe import Matmul, Precision, Schedule, TrainingRecipe

if TYPE_CHECKING:
    from star.training.checkpoint import CheckpointPolicy
    from star.training.loop import StepReport, TrainingResult, train
    from star.training.precision import threads

__all__ = [
    "CheckpointPolicy",
    "Diverged",
    "Matmul",
    "Precision",
    "Schedule",
    "StepReport",
    "TrainingRecipe",
    "TrainingResult",
    "threads",
    "train",
]

_HOMES = {
    "CheckpointPolicy": "checkpoint",
    "StepReport": "loop",
    "TrainingResult": "loop",
    "threads": "precision",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
