"""Command lines called in this process, and a search of a few seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from star.cli import main

SMALL = (
    *("--population", "4", "--generations", "2", "--depth", "4", "--width", "32"),
    *("--length", "32", "--tokens", "4096", "--objectives", "perplexity,parameters,cache_bytes@256"),
)


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str


Star = Callable[..., Answer]


def evolve_small(path: Path, text: Path, *more: str) -> None:
    """What `star evolve demo --run PATH` does with the settings of `SMALL`."""
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "argv", ["star", "evolve", "demo", "--run", str(path), "--data", str(text), *SMALL, *more])
    with patch.context(), pytest.raises(SystemExit) as end:
        main()
    patch.undo()
    assert end.value.code in (0, None)
