"""Objectives that a worker measures beside the perplexity: times, MAD tasks, and functions of the user's own."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from star.errors import StarError
from star.synthesis.objectives import PYTHON, Objective

if TYPE_CHECKING:
    from star.data import TokenizedCorpus
    from star.lm import LanguageModel
    from star.synthesis.recipe import Recipe


@dataclass(frozen=True)
class Context:
    """What a ``python:module.function`` objective is told beside the model."""

    recipe: Recipe
    corpus: TokenizedCorpus
    """The text as tokens: ``train``, ``validation`` and ``tokenizer``."""
    device: str
    seed: int
    """Of the candidate's initial weights."""


def measure(objective: Objective, model: LanguageModel, context: Context) -> float:
    """The value of a measured objective of a trained model.

    Raises StarError where the function cannot be imported, or returns no number.
    """
    if objective.kind.name == PYTHON:
        return _number(objective, own_function(objective)(model, context))
    if objective.kind.name == "mad":
        return mad_error(model, context)
    from star.evaluation.latency import decode_seconds, prefill_seconds

    measured = {"prefill_time": prefill_seconds, "decode_time": decode_seconds}[objective.kind.name]
    return measured(model, objective.length or 1)


def mad_error(model: LanguageModel, context: Context) -> float:
    """The share of wrong answers in the six MAD tasks, of fresh models of the same genome and width."""
    from star.evaluation.mad_score import MadSettings, mad_scores, mean_score
    from star.lm import LanguageModel

    config = model.config

    def fresh(vocab_size: int, length: int, seed: int) -> LanguageModel:
        return LanguageModel.from_genome(
            config.genome, pool=config.pool, width=config.width, vocab_size=vocab_size, length=length, seed=seed
        )

    settings = MadSettings(threads=context.recipe.training.threads)
    return 1 - mean_score(mad_scores(fresh, seed=context.seed, settings=settings, device=context.device))


def own_function(objective: Objective) -> Callable[..., Any]:
    """What ``python:module.function`` names; modules of the working directory are found, too.

    Raises StarError where it cannot be imported or called.
    """
    module, _, name = objective.name.removeprefix(f"{PYTHON}:").rpartition(".")
    try:
        with _working_directory_importable():
            function = getattr(import_module(module), name)
    except Exception as error:
        raise StarError(
            f"the objective {objective.name} cannot be imported ({type(error).__name__}: {error}); its module must lie "
            "in the working directory or be installed"
        ) from None
    if not callable(function):
        raise StarError(f"the objective {objective.name} is {function!r}, which cannot be called; name a function")
    return function


def _number(objective: Objective, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise StarError(f"the objective {objective.name} returned {value!r}; it must return a number") from None
    if not math.isfinite(number):
        raise NotFinite(f"the objective {objective.name} is {number}")
    return number


class NotFinite(Exception):
    """An objective of the user's own has no finite value for this candidate."""


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    """The command line does not look there by itself, as ``python -m`` does."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)
