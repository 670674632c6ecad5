"""Ablations: searches that differ in a few settings, run alike and measured against one box (paper A.7)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from star.errors import StarError
from star.synthesis.candidate import Candidate, Status
from star.synthesis.events import ConditionStarted, Listener, nobody
from star.synthesis.files import ABLATION, named, read_recipe, recipe_names
from star.synthesis.recipe import Recipe
from star.synthesis.run import Run, dominated_share
from star.synthesis.search import evolve
from star.synthesis.session import open_session
from star.synthesis.store import DATABASE
from star.synthesis.trial import TRAIN_CANDIDATE

CONDITION = re.compile(r"[A-Za-z0-9][\w.+-]*")  # it names a directory
COMMON = ("data.", "search.objectives")  # what no condition may change


@dataclass(frozen=True)
class Ablation:
    """A recipe and two or more conditions: settings by dotted name, in which the searches differ from it.

    Raises StarError for a bad setting, conditions that are the same search, and those that could not be compared,
    because they change objectives or text.
    """

    recipe: Recipe
    conditions: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        names = list(self.conditions)
        if bad := [name for name in names if not CONDITION.fullmatch(name)]:
            raise StarError(
                f"{bad[0]!r} cannot name a condition, which is a directory of the run, too; use letters, digits, "
                "hyphens and underscores"
            )
        if len(names) < 2:
            raise StarError(
                f"an ablation compares two or more conditions, but there is {', '.join(names) or 'none'}; write an "
                f"[{ABLATION}.NAME] table for each, an empty one for the recipe as it is"
            )
        for name, settings in self.conditions.items():
            if common := [setting for setting in settings if setting.startswith(COMMON)]:
                raise StarError(
                    f"the condition {name!r} changes {', '.join(common)}, but conditions are compared on one text in "
                    "the same objectives; set it for the whole recipe"
                )
        recipes = list(self.recipes.items())
        for index, (name, recipe) in enumerate(recipes):
            if same := [other for other, earlier in recipes[:index] if earlier == recipe]:
                raise StarError(f"the conditions {same[0]!r} and {name!r} are the same search; let them differ")

    @staticmethod
    def names() -> list[str]:
        """The ablations that come with STAR."""
        return recipe_names(ablations=True)

    @classmethod
    def load(cls, name: str | Path) -> Ablation:
        """An ablation by name (see ``names``) or from a TOML file: a recipe with a table ``[ablation.CONDITION]`` for
        each condition, which holds settings by dotted name (``"model.extend" = ["residual"]``).

        Raises StarError for an unknown name, a file that cannot be read, no TOML, or a bad setting or condition.
        """
        content = read_recipe(name)
        with named("recipe", name):
            conditions = content.pop(ABLATION, {})
            if not isinstance(conditions, Mapping) or not all(isinstance(c, Mapping) for c in conditions.values()):
                raise StarError(f"[{ABLATION}] holds nothing but a table [{ABLATION}.NAME] for each condition")
            settings = {condition: dict(_dotted(tables)) for condition, tables in conditions.items()}
            return cls(Recipe.model_validate(content), settings)

    @property
    def recipes(self) -> dict[str, Recipe]:
        """The recipe of each condition."""
        found = {}
        for name, settings in self.conditions.items():
            with named("condition", name):
                found[name] = self.recipe.override(settings)
                if found[name].search.calibrate:
                    raise StarError(
                        "search.calibrate would let each condition compute in its own way; set it to false, and "
                        "training.threads, precision, matmul and micro_batch_tokens alike for all"
                    )
        return found

    def override(self, settings: Mapping[str, Any]) -> Ablation:
        """The same conditions of a recipe with some settings changed, as in ``Recipe.override``.

        Raises StarError also for a setting that a condition has of its own.
        """
        changes = {name: value for name, value in settings.items() if value is not None}
        for condition, own in self.conditions.items():
            if both := [name for name in changes if name in own]:
                raise StarError(
                    f"the condition {condition!r} has a {', '.join(both)} of its own; change it in the recipe, not for "
                    "all conditions"
                )
        return Ablation(self.recipe.override(changes), self.conditions)


@dataclass(frozen=True)
class ConditionResult:
    """What the search of one condition has found."""

    condition: str
    run: Path
    candidates: int
    failed: int
    best_perplexity: float | None
    """On the front; None where nothing is trained, or nothing keeps to the constraints."""
    fewest_parameters: int | None
    """On the front; None where nothing keeps to the constraints."""
    hypervolumes: tuple[float, ...]
    """Of each generation, as in ``Run.hypervolumes``, but in the box of all conditions' first generations together."""


def ablate(
    ablation: Ablation | str | Path,
    *,
    run: Path | str,
    workers: int | None = None,
    listener: Listener | None = None,
    timeout: float | None = None,
    trial: str = TRAIN_CANDIDATE,
) -> list[ConditionResult]:
    """Run the search of each condition, one after the other, in a directory of its name inside ``run``.

    Each is a run like any other: killed at any moment and started again, everything ends the same, and nothing that is
    done is trained again. The arguments are those of ``evolve``.

    Args:
        ablation: an ablation, the name of one (see ``Ablation.names``) or a TOML file.

    Raises StarError as ``evolve`` does; another recipe in any of the directories is told before anything is trained.
    """
    if isinstance(ablation, (str, Path)):
        ablation = Ablation.load(ablation)
    path, tell = Path(run), listener or nobody
    if (path / DATABASE).is_file():
        raise StarError(f"{str(path)!r} is the run of one search; name another directory for the conditions")
    recipes = ablation.recipes
    for name, recipe in recipes.items():
        with open_session(path / name, recipe, workers=workers, listener=nobody, timeout=timeout):
            pass  # held for a moment, to see that it can be had
    for place, (name, recipe) in enumerate(recipes.items(), start=1):
        tell(ConditionStarted(name, place, len(recipes)))
        evolve(recipe, run=path / name, workers=workers, listener=tell, timeout=timeout, trial=trial).close()
    return condition_results(path, recipes)


def condition_results(run: Path, conditions: Iterable[str]) -> list[ConditionResult]:
    """The results of finished searches in the directories ``conditions`` of ``run``, measured against one box."""
    runs = {name: Run.open(run / name) for name in conditions}
    try:
        first = [candidate for found in runs.values() for candidate in found.candidates if candidate.generation == 1]
        return [_result(name, found, first) for name, found in runs.items()]
    finally:
        for found in runs.values():
            found.close()


def _result(name: str, run: Run, first: list[Candidate]) -> ConditionResult:
    candidates, front, recipe = run.candidates, run.front, run.recipe
    return ConditionResult(
        condition=name,
        run=run.path,
        candidates=len(candidates),
        failed=sum(candidate.status is Status.FAILED for candidate in candidates),
        best_perplexity=min((c.perplexity for c in front if c.perplexity is not None), default=None),
        fewest_parameters=min((candidate.parameters for candidate in front), default=None),
        hypervolumes=tuple(
            dominated_share(run.population(generation), first, recipe) for generation in range(1, run.generations + 1)
        ),
    )


def _dotted(tables: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Settings by dotted name; without quotes, TOML reads ``model.extend = …`` as a table ``model``."""
    for name, value in tables.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", setting) for inner, setting in value.items())
        else:
            yield name, value
