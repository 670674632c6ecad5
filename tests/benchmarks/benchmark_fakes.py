"""A trial that costs nothing, for workers to import by name."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

from star.synthesis.trial import Outcome, Trial


def learning(trial: Trial, report: Any) -> Outcome:
    """A perplexity that keeps its order in the second half of the budget, and a MAD error that has the opposite one."""
    report(SimpleNamespace(step=1, steps=1, loss=1.0))
    quality = int.from_bytes(hashlib.sha256(trial.genome.encode()).digest()[:6], "big") / 2**48
    whole = trial.recipe.training.tokens
    early = trial.tokens is not None and trial.tokens < whole // 2
    return Outcome({"perplexity": 10 + (-quality if early else quality), "mad": 1 - quality}, ((whole, 1.0),))
