"""A search as a process of its own, to be killed: ``coordinator.py TEXT RUN WORKERS [SCHEME]``, with halving,
steady-state or inheritance as the scheme.

Real store, lock, executor and workers; the trials cost nothing, and so does the start: no torch anywhere.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from conftest import small_recipe
from synthesis_fakes import halved

from star.synthesis import evolve, server, session
from star.synthesis.objectives import Architecture


def fake_size(architecture: Architecture, length: int = 0) -> int:
    return int(hashlib.sha256(f"{architecture.genome} {length}".encode()).hexdigest()[:6], 16)


Architecture.parameters = Architecture.cache_bytes = fake_size  # type: ignore[assignment, method-assign]
session.devices = lambda: ["cpu"]
server.PRELOAD = "synthesis_fakes"

if __name__ == "__main__":
    recipe = small_recipe(Path(sys.argv[1])).override({"search.generations": 6})
    trial = "synthesis_fakes:slow_score"
    if sys.argv[4:] == ["halving"]:
        recipe, trial = halved(recipe).override({"search.generations": 4}), "synthesis_fakes:learning"
    if sys.argv[4:] == ["steady-state"]:
        recipe = recipe.override({"search.mode": "steady-state"})
    if sys.argv[4:] == ["inheritance"]:
        recipe, trial = recipe.override({"inheritance.discount": 0.0}), "synthesis_fakes:inheriting"
    evolve(recipe, run=sys.argv[2], workers=int(sys.argv[3]), trial=trial)
    assert "torch" not in sys.modules
