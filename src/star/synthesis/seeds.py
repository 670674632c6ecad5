"""Seeds that depend on what they are for and not on when or where it happens."""

from __future__ import annotations

import hashlib


def derived_seed(run_seed: int, purpose: str) -> int:
    """A 63-bit seed for ``purpose`` (a candidate's digest, ``"data"``, ``"search"``) in the run of that seed."""
    return int.from_bytes(hashlib.sha256(f"{run_seed}:{purpose}".encode()).digest()[:8], "big") >> 1
