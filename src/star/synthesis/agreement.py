"""Whether a run that exists may go on with the recipe that is given."""

from __future__ import annotations

import shutil
from pathlib import Path

from star.errors import StarError
from star.synthesis.calibration import Calibration
from star.synthesis.candidate import Status
from star.synthesis.inheritance import WEIGHTS
from star.synthesis.lock import LOCK_FILE
from star.synthesis.recipe import Recipe
from star.synthesis.store import CALIBRATION, DATABASE, Store

CHECKPOINTS = "checkpoints"  # of a generation in progress


def require_run_or_empty(run: Path) -> None:
    """StarError where a directory holds something else than a run."""
    if run.is_dir() and any(run.iterdir()) and not any((run / name).exists() for name in (LOCK_FILE, DATABASE)):
        raise StarError(f"{str(run)!r} holds other files and no run; name a new or empty directory")


def agreed_recipe(store: Store, recipe: Recipe | None, run: Path) -> Recipe:
    """The recipe to go on with: the stored one, with the number of generations now asked for."""
    text = store.fact("recipe")
    if text is None:
        if recipe is None:
            raise StarError(f"{str(run)!r} is no run to continue; give a recipe to start one")
        store.put_facts(recipe=recipe.model_dump_json())
        return recipe
    stored = Recipe.model_validate_json(text)
    if recipe is not None and (calibration := store.fact(CALIBRATION)) is not None:
        settled = Calibration.from_json(calibration).setting.applied(stored).training
        if recipe.training == settled:  # the recipe that the run shows; the stored one is what was asked for
            recipe = recipe.model_copy(update={"training": stored.training})
    if recipe is None or recipe == stored:
        return stored
    if all(candidate.status is Status.PENDING and not candidate.rungs for candidate in store.candidates()):
        # Nothing is lost by starting over, for instance where the first start named a text that does not exist.
        store.forget()
        for folder in (CHECKPOINTS, WEIGHTS):  # of a trial that was killed on the way to its first result
            shutil.rmtree(run / folder, ignore_errors=True)
        store.put_facts(recipe=recipe.model_dump_json())
        return recipe
    changed = [name for name in stored.differences(recipe) if name != "search.generations"]
    if changed:
        raise StarError(
            f"the run {str(run)!r} began with another recipe; {', '.join(changed)} differ(s): only "
            "search.generations may change. Restore the setting, or start a new run"
        )
    ended = store.generations()
    if recipe.search.generations < ended:
        raise StarError(
            f"the run {str(run)!r} has {ended} generations already; ask for at least that many, "
            f"not {recipe.search.generations}"
        )
    store.put_facts(recipe=recipe.model_dump_json())
    return recipe
