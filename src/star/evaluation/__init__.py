"""Measuring trained models. Importing this package imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from star.evaluation.heldout import Evaluation, perplexity

__all__ = ["Evaluation", "perplexity"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from star.evaluation import heldout

    return getattr(heldout, name)
