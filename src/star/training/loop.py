"""The training loop: one model, one corpus, one recipe, one seed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from star.data.corpus import TokenizedCorpus
from star.data.windows import batches
from star.errors import StarError
from star.training.checkpoint import CheckpointPolicy, TrainingState, load_checkpoint, save_checkpoint
from star.training.compilation import compiled
from star.training.divergence import LossMonitor
from star.training.optimizer import adamw
from star.training.precision import autocast, multiplying, own_randomness, seed_generators, threads, without_autocast
from star.training.recipe import Schedule, TrainingRecipe
from star.training.replicas import Replicas
from star.training.schedule import learning_rate


@dataclass(frozen=True, slots=True)
class StepReport:
    """What `on_step` is told after every optimiser step."""

    step: int  # steps done, from 1
    steps: int
    tokens: int  # consumed so far
    total_tokens: int
    loss: float  # of this step, nats a token
    gradient_norm: float  # before clipping
    learning_rate: float
    tokens_per_second: float
    eta_seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training leaves besides the weights in the model."""

    curve: list[tuple[int, float]]  # (tokens consumed, loss of that step in nats a token)
    tokens: int
    steps: int
    final_loss: float  # smoothed over about the last ten steps
    seconds: float  # of training, summed over interruptions


def train(
    model: nn.Module,
    corpus: TokenizedCorpus,
    recipe: TrainingRecipe,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    on_step: Callable[[StepReport], None] | None = None,
    checkpoint: CheckpointPolicy | None = None,
    replicas: int = 1,
) -> TrainingResult:
    """Trains `model` in place on the training side of `corpus` and leaves it on `device`.

    `model.loss(tokens, targets)`, both [B, L] int64, must return the scalar mean loss in nats. On CPU the result is a
    function of (initial weights, corpus, recipe, seed), bit by bit on one kind of machine. The caller's threads,
    random numbers and library for products are restored. With `checkpoint`, a training that was killed continues from
    its last checkpoint and ends with the same weights. An exception from `on_step` ends the training and is
    passed on. On CPU, `replicas` micro-batches are computed at a time, each on the recipe's threads; no bit of the
    result depends on it, if `model.loss` changes nothing in the model and no hook waits for accumulated gradients.

    Raises:
        Diverged: the loss or the gradient is not finite, or the loss explodes. The model is not fit for use then.
        StarError: the corpus is too small, the checkpoint folder belongs to another training, or the recipe's
            library for products would not multiply in float32 on this CPU; or no replica, or several with a model
            that draws random numbers from torch's generator, with compilation or oneDNN.
    """
    device = torch.device(device)
    if replicas < 1:
        raise StarError(f"{replicas} replicas can compute nothing; give at least 1")
    replicas = replicas if device.type == "cpu" else 1
    if replicas > 1 and recipe.claims_process:
        raise StarError("training.compile and training.matmul hold for a whole process: train in a single replica")
    was_training = model.training
    model.to(device).train()
    try:
        with (
            multiplying(recipe.matmul, device),
            threads(recipe.threads),
            own_randomness(device),
            without_autocast(device),
            compiled(model, recipe.compile),
            Replicas(replicas, recipe.threads) as side_by_side,
        ):
            return _Training(model, corpus, recipe, seed, device, checkpoint, side_by_side).run(on_step)
    finally:
        model.train(was_training)


class _Training:
    """The state of one training between its steps."""

    def __init__(
        self,
        model: nn.Module,
        corpus: TokenizedCorpus,
        recipe: TrainingRecipe,
        seed: int,
        device: torch.device,
        policy: CheckpointPolicy | None,
        replicas: Replicas,
    ) -> None:
        self.model, self.recipe, self.seed, self.device, self.policy = model, recipe, seed, device, policy
        self.replicas = replicas
        self.loss = cast("Callable[[Tensor, Tensor], Tensor]", model.loss)
        self.width: int | None = getattr(model, "width", None)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = adamw(model, recipe)
        self.monitor = LossMonitor()
        self.curve: list[tuple[int, float]] = []
        self.step = 0
        self.seconds_before = 0.0
        # validation_tokens is not part of it: it says how the result is measured, not how it comes about.
        self.identity = {
            "corpus": corpus.digest,
            "seed": seed,
            "recipe": recipe.model_dump(mode="json", exclude={"validation_tokens"}),
        }
        if policy and policy.every_tokens is None:
            if recipe.schedule is not Schedule.TRAPEZOID:
                raise StarError("a checkpoint before the decay needs schedule = 'trapezoid'; or give every_tokens")
            for name in ("tokens", "decay_share", "final_learning_rate_ratio"):  # they decide nothing before the decay
                del self.identity["recipe"][name]  # type: ignore[attr-defined]
        if policy and (saved := load_checkpoint(policy.folder, self.identity, model, self.optimizer)):
            self.step, self.curve, self.seconds_before = saved.step, saved.curve, saved.seconds
            self.monitor = LossMonitor(**saved.monitor)
            if policy.every_tokens is None and self.step > recipe.constant_steps:
                raise StarError(
                    f"{policy.folder} is at step {self.step}, but with tokens = {recipe.tokens} the decay begins after "
                    f"step {recipe.constant_steps}: raise tokens, or choose another folder"
                )
        self.batches = batches(
            corpus.train,
            length=recipe.length,
            batch_size=recipe.batch_size,
            seed=seed,
            start_step=self.step,
        )

    def run(self, on_step: Callable[[StepReport], None] | None) -> TrainingResult:
        recipe, first, started = self.recipe, self.step, time.monotonic()
        while self.step < recipe.steps:
            loss, norm, rate = self.advance()
            tokens = self.step * recipe.step_tokens
            seconds = time.monotonic() - started
            self.curve.append((tokens, loss))
            if self.policy and self.saves(self.policy, tokens):
                self.save(self.policy, self.seconds_before + seconds)
            if on_step:
                speed = (self.step - first) * recipe.step_tokens / max(seconds, 1e-9)
                total = recipe.steps * recipe.step_tokens
                eta = (total - tokens) / speed
                on_step(StepReport(self.step, recipe.steps, tokens, total, loss, norm, rate, speed, eta))
        return TrainingResult(
            curve=self.curve,
            tokens=self.step * recipe.step_tokens,
            steps=self.step,
            final_loss=self.monitor.smoothed,
            seconds=self.seconds_before + time.monotonic() - started,
        )

    def advance(self) -> tuple[float, float, float]:
        """One optimiser step: (loss, gradient norm, learning rate)."""
        rate = learning_rate(self.recipe, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["learning_rate_ratio"]
        # Seeding every step, not once, lets a training with random layers continue at any step.
        seed_generators(_step_seed(self.seed, self.step), self.device)
        loss = self.accumulate(*next(self.batches))
        norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        seen_loss, seen_norm = torch.stack((loss.double(), norm.double())).tolist()  # waits for the device once
        self.monitor.check(seen_loss, seen_norm, self.step + 1)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return seen_loss, seen_norm, rate

    def accumulate(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Adds the gradients of a batch [B, L], micro-batch by micro-batch; returns its mean loss."""
        size = self.recipe.micro_batch_size
        parts = list(zip(tokens.split(size), targets.split(size), strict=True))

        def share_of_loss(part: Tensor, expected: Tensor) -> Tensor:
            with autocast(self.recipe.precision, self.device, self.width):
                loss = self.loss(part.to(self.device), expected.to(self.device))
            return loss * (len(part) / len(tokens))  # the last micro-batch may be smaller

        losses = self.replicas.accumulate([partial(share_of_loss, *part) for part in parts], self.parameters)
        return sum((loss.float() for loss in losses), torch.zeros((), device=self.device))

    def saves(self, policy: CheckpointPolicy, tokens: int) -> bool:
        """Whether there is a checkpoint after the step that has just reached `tokens`."""
        if policy.every_tokens is None:
            return self.step == self.recipe.constant_steps
        return self.step == self.recipe.steps or policy.is_due(tokens - self.recipe.step_tokens, tokens)

    def save(self, policy: CheckpointPolicy, seconds: float) -> None:
        state = TrainingState(self.step, seconds, self.curve, asdict(self.monitor), self.identity)
        save_checkpoint(policy.folder, state, self.model, self.optimizer)


def _step_seed(seed: int, step: int) -> int:
    """A 63-bit seed of its own for every step."""
    words = np.random.SeedSequence(seed, spawn_key=(step,)).generate_state(1, np.uint64)
    return int(words[0]) >> 1
