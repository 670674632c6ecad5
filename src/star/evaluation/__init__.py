"""Measuring trained models. Importing this package imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from star.evaluation.heldout import Evaluation, perplexity
    from star.evaluation.latency import decode_seconds, prefill_seconds

__all__ = ["Evaluation", "decode_seconds", "perplexity", "prefill_seconds"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = "latency" if name.endswith("_seconds") else "heldout"
    return getattr(import_module(f"{__name__}.{home}"), name)
