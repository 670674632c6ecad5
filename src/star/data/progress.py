"""How preparing a corpus tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

# (stage, bytes done, bytes in all or None where unknown); called often, so it must be cheap
Progress = Callable[[str, int, int | None], None]


def silent(stage: str, done: int, total: int | None) -> None:
    """The progress that nobody watches."""
