"""One training and evaluation as a message to a worker, and what comes back. Imports no torch until a trial runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from star.errors import StarError
from star.genome import OptionPool
from star.synthesis.inheritance import Heritage
from star.synthesis.measures import Context, NotFinite, measure
from star.synthesis.recipe import Recipe

if TYPE_CHECKING:
    from star.training import StepReport

TRAIN_CANDIDATE = "star.synthesis.trial:train_candidate"


@dataclass(frozen=True)
class Trial:
    """All that a worker needs, on this machine or on another one; it pickles."""

    name: str
    """Of the candidate; comes back with every event."""
    genome: str
    """Canonical text over ``pool``."""
    pool: OptionPool
    recipe: Recipe
    corpus: Path
    """The folder of a prepared corpus."""
    seed: int
    """Of the initial weights."""
    data_seed: int
    """Of the order of the training windows: one for the whole run, so that all candidates read the same text."""
    tokens: int | None = None
    """The budget, of a rung of halving or of a child with a discount; None: the recipe's."""
    checkpoint: Path | None = None
    """Where a training in rungs keeps its weights before their decay."""
    heritage: Heritage | None = None
    """The parents whose weights it begins with, where those fit; None: all weights are fresh."""
    weights: Path | None = None
    """Where to keep the trained weights for children; None: nowhere."""
    device: str = "cpu"
    """Where to train; the executor says."""
    function: str = TRAIN_CANDIDATE
    """``module:function`` to call with this trial and a function that takes step reports; returns ``Outcome``."""


@dataclass(frozen=True)
class Outcome:
    """What a trial measured."""

    metrics: dict[str, float] = field(default_factory=dict)
    curve: tuple[tuple[int, float], ...] = ()


class TrialFailed(Exception):
    """The candidate cannot be scored, for a reason that lies in the candidate, such as divergence.

    Only this makes a candidate fail for good; any other exception leaves it to be trained again.
    """


Report = Callable[["StepReport"], None]
TrialFunction = Callable[[Trial, Report], Outcome]


def trial_function(name: str) -> TrialFunction:
    """The function that ``module:function`` names."""
    module, _, function = name.partition(":")
    found: TrialFunction = getattr(import_module(module), function)
    return found


def train_candidate(trial: Trial, report: Report) -> Outcome:
    """Build the candidate, train it on the recipe's budget and measure its perplexity on held-out tokens.

    The result is a function of the trial alone: the number of threads is the recipe's, every seed is the trial's.
    Raises TrialFailed where the model cannot be built, training diverges or the perplexity is no finite number, and
    StarError where the weights of a parent are missing or its own cannot be kept.
    """
    from star.data import TokenizedCorpus
    from star.evaluation import perplexity
    from star.lm import LanguageModel
    from star.synthesis.weights import begin_with, keep_weights
    from star.training import CheckpointPolicy, Diverged, threads, train

    recipe = trial.recipe
    settings = recipe.training if trial.tokens is None else recipe.training.replace(tokens=trial.tokens)
    policy = None if trial.checkpoint is None else CheckpointPolicy(trial.checkpoint)
    corpus = TokenizedCorpus.open(trial.corpus)
    with threads(recipe.training.threads):
        try:
            model = LanguageModel.from_genome(
                trial.genome,
                pool=trial.pool,
                width=recipe.model.width,
                vocab_size=corpus.vocab_size,
                length=recipe.training.length,
                tie_embeddings=recipe.model.tie_embeddings,
                seed=trial.seed,
            )
        except StarError as error:
            raise TrialFailed(f"it cannot be built: {error}") from None
        if trial.heritage is not None:
            begin_with(model, trial.heritage)
        try:
            training = train(
                model, corpus, settings, seed=trial.data_seed, device=trial.device, on_step=report, checkpoint=policy
            )
            evaluation = perplexity(
                model,
                corpus.validation,
                length=recipe.training.length,
                tokens=recipe.training.validation_tokens,
                bytes_per_token=corpus.bytes_per_token,
            )
        except Diverged as diverged:
            raise TrialFailed(f"diverged: {diverged}") from None
    if not math.isfinite(evaluation.perplexity):
        raise TrialFailed(f"diverged: the validation loss is {evaluation.loss:.4g} nats a token")
    metrics = {"perplexity": evaluation.perplexity, "loss": evaluation.loss}
    if evaluation.bits_per_byte is not None:
        metrics["bits_per_byte"] = evaluation.bits_per_byte
    if trial.weights is not None:
        keep_weights(model, trial.weights)
    context = Context(recipe, corpus, trial.device, trial.seed)
    with threads(recipe.training.threads):
        for objective in recipe.measures:
            if objective.measured:
                try:
                    metrics[objective.name] = measure(objective, model, context)
                except NotFinite as reason:
                    raise TrialFailed(str(reason)) from None
    return Outcome(metrics, tuple((tokens, loss) for tokens, loss in training.curve))
