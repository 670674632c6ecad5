"""How a model is trained: every setting of one training. Imports no torch."""

from __future__ import annotations

import enum
import math
from typing import Annotated, Self

from pydantic import Field, model_validator

from star.errors import StarError
from star.validation import CheckedModel


class Precision(enum.StrEnum):
    """The arithmetic of the forward pass; weights and optimiser are always kept as the model has them."""

    AUTO = "auto"  # bf16 autocast where the hardware trains faster with it, else fp32
    FP32 = "fp32"
    BF16 = "bf16"


class Matmul(enum.StrEnum):
    """Which library multiplies float32 matrices on CPUs; on other devices it says nothing."""

    DEFAULT = "default"  # PyTorch's choice
    ONEDNN = "onednn"  # faster on some CPUs; refused on those where it would compute in less than float32


class Schedule(enum.StrEnum):
    """What the learning rate does after the warm-up."""

    COSINE = "cosine"  # half a cosine over the whole rest of the budget (the paper's)
    TRAPEZOID = "trapezoid"  # constant, then a short linear decay: all before the decay is the same for any budget


Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainingRecipe(CheckedModel):
    """AdamW with a linear warm-up and a decay; everything is counted in tokens (paper section 5 and A.2).

    A step consumes `batch_tokens` rounded down to whole sequences of `length` tokens (`step_tokens`, at least one
    sequence), a training as many whole steps as `tokens` pays for (`steps`).
    """

    tokens: int = Field(gt=0, description="the budget")
    batch_tokens: int = Field(gt=0, description="tokens of one optimiser step")
    warmup_tokens: int = Field(ge=0, description="tokens until the learning rate has its peak")
    length: int = Field(gt=0, description="tokens of one sequence")
    micro_batch_tokens: int | None = Field(
        default=None, gt=0, description="tokens of one forward pass (gradients accumulate); default: the whole batch"
    )
    peak_learning_rate: float = Field(default=8e-4, gt=0, allow_inf_nan=False)
    schedule: Schedule = Schedule.COSINE
    decay_share: float = Field(
        default=0.2, gt=0, le=1, description="of the budget that the decay of a trapezoid takes; nothing for a cosine"
    )
    final_learning_rate_ratio: float = Field(default=0.1, ge=0, le=1, description="last over peak learning rate")
    state_space_learning_rate_ratio: float = Field(
        default=0.25, gt=0, le=1, description="of A, B and Δ of a fixed state space, over that of everything else"
    )
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    weight_decay: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    clip: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="the largest norm of the gradient")
    precision: Precision = Precision.AUTO
    compile: bool = Field(
        default=False, description="torch.compile for each LIV; for long trainings on a GPU, see docs/performance.md"
    )
    matmul: Matmul = Field(
        default=Matmul.DEFAULT, description="what multiplies float32 matrices on CPUs, see docs/performance.md"
    )
    threads: int = Field(default=1, ge=1, le=1024, description="CPU threads; part of the recipe: sums depend on it")
    validation_tokens: int = Field(default=65_536, gt=0, description="held-out tokens that perplexity is measured on")

    @property
    def batch_size(self) -> int:
        """Sequences of one step."""
        return max(1, self.batch_tokens // self.length)

    @property
    def micro_batch_size(self) -> int:
        """Sequences of one forward pass."""
        if self.micro_batch_tokens is None:
            return self.batch_size
        return min(self.batch_size, max(1, self.micro_batch_tokens // self.length))

    @property
    def step_tokens(self) -> int:
        """Tokens that one step really consumes."""
        return self.batch_size * self.length

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.tokens // self.step_tokens

    @property
    def constant_steps(self) -> int:
        """Of a trapezoid, the steps before the decay: as long as nothing depends on the budget."""
        return self.steps - max(1, round(self.decay_share * self.steps))

    def with_tokens(self, tokens: int) -> Self:
        """The same training with another budget; the warm-up keeps its share of it."""
        return self.replace(tokens=tokens, warmup_tokens=self.warmup_tokens * tokens // self.tokens)

    @property
    def claims_process(self) -> bool:
        """Whether a setting holds for a whole process, and micro-batches for one after the other."""
        return self.compile or self.matmul is not Matmul.DEFAULT

    def replicas(self, threads: int, sequences: int) -> int:
        """How many micro-batches, of `sequences` in all, `threads` CPU threads can compute at the same time."""
        if self.claims_process:
            return 1
        return max(1, min(threads // self.threads, math.ceil(sequences / self.micro_batch_size)))

    def side_by_side(self, threads: int, most: int) -> Self:
        """The same training, cut for `threads` CPU threads in all: each micro-batch into as many parts, but `most`.

        Where there is nothing to be cut, all threads work on each operation.
        """
        wanted = min(threads, most, self.micro_batch_size)
        if wanted < 2 or self.claims_process:
            return self.replace(threads=threads)
        size = math.ceil(self.micro_batch_size / wanted)
        parts = math.ceil(self.micro_batch_size / size)
        return self.replace(threads=threads // parts, micro_batch_tokens=size * self.length)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.steps < 1:
            raise StarError(
                f"tokens = {self.tokens} does not pay for one step of {self.step_tokens} tokens: raise tokens, or "
                "lower batch_tokens or length"
            )
        if self.warmup_tokens >= self.tokens:
            raise StarError(
                f"warmup_tokens = {self.warmup_tokens} leaves nothing of tokens = {self.tokens}: lower warmup_tokens "
                "(a tenth of the budget is usual) or raise tokens"
            )
        if self.schedule is Schedule.TRAPEZOID and self.warmup_tokens > self.constant_steps * self.step_tokens:
            raise StarError(
                f"warmup_tokens = {self.warmup_tokens} reaches into the decay, which begins after "
                f"{self.constant_steps * self.step_tokens} of {self.tokens} tokens: lower warmup_tokens or decay_share"
            )
        return self
