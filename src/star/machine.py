"""What this machine gives to a process: its cores, and the user's cache, which can be made again at any time."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where prepared corpora and compiled kernels are kept: $STAR_CACHE, or $XDG_CACHE_HOME/star, or ~/.cache/star."""
    if own := os.environ.get("STAR_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "star"


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
