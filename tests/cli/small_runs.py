"""Command lines called in this process, and a search of a few seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
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


def interrupted(*arguments: str) -> tuple[int, str]:
    """The status and stderr of `star ARGUMENTS` as a process of its own that gets Ctrl-C while it trains.

    Not before: an interrupted import of PyTorch may abort the process.
    """
    run = Path(arguments[arguments.index("--run") + 1])
    process = subprocess.Popen(
        [sys.executable, "-c", "from star.cli import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 120
        while not any(run.rglob("workers.log")):  # which the first worker begins
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, err
