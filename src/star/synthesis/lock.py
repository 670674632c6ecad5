"""One writer for each run directory: an exclusive ``flock``, which the kernel releases however the holder dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from star.errors import StarError

LOCK_FILE = "lock"
PATIENCE_SECONDS = 1.0  # readers hold the lock for an instant, to look whether it is held; wait for them
INTERVAL_SECONDS = 0.05


@contextmanager
def exclusive(run: Path) -> Iterator[None]:
    """Hold the run for writing; StarError if another process does."""
    descriptor = os.open(run / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not _try(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise StarError(
                    f"the run {str(run)!r} is in use by another process; wait for it to finish, or name another run"
                )
            time.sleep(INTERVAL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def is_locked(run: Path) -> bool:
    """Whether some process is writing to the run at this moment."""
    try:
        descriptor = os.open(run / LOCK_FILE, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _try(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _try(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
