"""How well a model predicts text that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from star.errors import StarError
from star.training.divergence import Diverged

TOKENS_AT_ONCE = 8192  # of the default batch: bounds the memory of the logits


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The mean loss on held-out text, in three units."""

    loss: float  # nats a token
    perplexity: float  # exp(loss); infinite where that is no number
    bits_per_byte: float | None  # comparable between tokenizers; None where the bytes a token are not known
    tokens: int  # predicted


def perplexity(
    model: nn.Module,
    stream: np.ndarray,
    /,
    *,
    length: int,
    tokens: int | None = None,
    batch_size: int | None = None,
    bytes_per_token: float | None = None,
) -> Evaluation:
    """The loss of `model` on windows of `length` tokens, without overlap, spread evenly over `stream`.

    Spread, because the beginning of the stream may be a single document. Every token of a window is predicted from
    those before it in the window. Deterministic, in the model's own precision (no autocast), averaged in fp64; the
    model stays on its device and in its mode.

    Args:
        stream: 1-D integers, such as `corpus.validation`.
        tokens: evaluate at most this many, but at least one window; default: all whole windows.
        batch_size: windows in one forward pass; default: 8192 tokens' worth. It does not change the result beyond
            floating-point noise.
        bytes_per_token: such as `corpus.bytes_per_token`, for bits a byte.

    Raises:
        StarError: `stream` is shorter than one window and its last target.
        Diverged: the loss is not finite.
    """
    if length < 1:
        raise StarError(f"length = {length} must be at least 1")
    available = (len(stream) - 1) // length
    if available < 1:
        raise StarError(
            f"there are {len(stream)} validation tokens, too few for one sequence of {length} and its last target: "
            "give more text, a smaller length or a greater validation_fraction"
        )
    windows = available if tokens is None else min(available, max(1, tokens // length))
    starts = np.arange(windows) * available // windows * length
    at_once = batch_size or max(1, TOKENS_AT_ONCE // length)
    loss_of = cast("Callable[[Tensor, Tensor], Tensor]", model.loss)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    total = 0.0
    try:
        # Not inference_mode: tables that a model caches on the way could not be used in training afterwards.
        with torch.no_grad():
            for first in range(0, windows, at_once):
                rows = stream[starts[first : first + at_once, None] + np.arange(length + 1)]
                window = torch.from_numpy(rows.astype(np.int64)).to(device)  # [B, L + 1]
                loss = loss_of(window[:, :-1].contiguous(), window[:, 1:].contiguous())
                total += loss.double().item() * len(window)  # the last batch may be smaller
    finally:
        model.train(was_training)
    mean = total / windows
    if not math.isfinite(mean):
        raise Diverged(f"the validation loss is {mean}")
    return Evaluation(
        loss=mean,
        perplexity=math.exp(mean) if mean < math.log(float(np.finfo(np.float64).max)) else math.inf,
        bits_per_byte=None if bytes_per_token is None else mean / math.log(2) / bytes_per_token,
        tokens=windows * length,
    )
