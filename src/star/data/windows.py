"""Training batches: random windows of a stream of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from star.errors import StarError

if TYPE_CHECKING:
    from torch import Tensor


def batches(
    tokens: np.ndarray, *, length: int, batch_size: int, seed: int, start_step: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (inputs, targets), both [batch_size, length] int64; targets are the inputs one token later.

    The windows of step s are a function of (tokens, length, batch_size, seed, s), so a training that continues at
    `start_step` sees what it would have seen, without drawing the steps before.

    Args:
        tokens: 1-D integers, usually memory-mapped.
        seed: a non-negative integer of any size.

    Raises:
        StarError: `tokens` is shorter than one window and its last target (told at once, before the first batch).
    """
    if length < 1 or batch_size < 1:
        raise StarError(f"length {length} and batch size {batch_size} must both be at least 1")
    if seed < 0:
        raise StarError(f"the seed {seed} is negative: give 0 or a positive number")
    if len(tokens) <= length:
        raise StarError(
            f"there are {len(tokens)} tokens, too few for one sequence of {length} and its last target: give more "
            "text or a smaller length"
        )
    return _windows(tokens, length, batch_size, seed, start_step)


def _windows(tokens: np.ndarray, length: int, batch_size: int, seed: int, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    import torch

    within = np.arange(length + 1)
    while True:
        starts = window_starts(len(tokens), length, batch_size, seed, step)
        windows = torch.from_numpy(tokens[starts[:, None] + within].astype(np.int64))  # [B, L + 1]
        yield windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
        step += 1


def window_starts(count: int, length: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Where the windows of one step begin, [batch_size]: uniform over all that fit into `count` tokens."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(step,))))
    return generator.integers(0, count - length, size=batch_size)
