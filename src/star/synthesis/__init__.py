"""The search as a job: recipe, objectives, workers, the run directory, resume. Importing it imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from star.synthesis.ablation import Ablation, ConditionResult, ablate
    from star.synthesis.baselines import compare
    from star.synthesis.candidate import Candidate, Status
    from star.synthesis.events import Event, Listener
    from star.synthesis.objectives import OBJECTIVES, Objective, parse_objective
    from star.synthesis.recipe import ModelRecipe, Recipe, SearchRecipe
    from star.synthesis.run import Run, RunState
    from star.synthesis.search import evolve

__all__ = [
    "OBJECTIVES",
    "Ablation",
    "Candidate",
    "ConditionResult",
    "Event",
    "Listener",
    "ModelRecipe",
    "Objective",
    "Recipe",
    "Run",
    "RunState",
    "SearchRecipe",
    "Status",
    "ablate",
    "compare",
    "evolve",
    "parse_objective",
]

_HOMES = {
    "OBJECTIVES": "objectives",
    "Ablation": "ablation",
    "Candidate": "candidate",
    "ConditionResult": "ablation",
    "Event": "events",
    "Listener": "events",
    "ModelRecipe": "recipe",
    "Objective": "objectives",
    "Recipe": "recipe",
    "Run": "run",
    "RunState": "run",
    "SearchRecipe": "recipe",
    "Status": "candidate",
    "ablate": "ablation",
    "compare": "baselines",
    "evolve": "search",
    "parse_objective": "objectives",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
