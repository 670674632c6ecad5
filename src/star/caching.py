"""The user's cache: what can be made again at any time."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where prepared corpora and compiled kernels are kept: $STAR_CACHE, or $XDG_CACHE_HOME/star, or ~/.cache/star."""
    if own := os.environ.get("STAR_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "star"
