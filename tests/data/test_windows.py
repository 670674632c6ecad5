from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from star.data import batches
from star.data.windows import window_starts
from star.errors import StarError

STREAM = np.arange(1000, dtype=np.uint16)


def test_targets_are_the_inputs_one_token_later() -> None:
    inputs, targets = next(batches(STREAM, length=16, batch_size=4, seed=0))
    assert inputs.shape == targets.shape == (4, 16)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(inputs - inputs[:, :1], torch.arange(16).expand(4, 16))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**70), start=st.integers(0, 50))
def test_a_training_can_continue_at_any_step(seed: int, start: int) -> None:
    whole = list(islice(batches(STREAM, length=8, batch_size=3, seed=seed), start + 2))
    rest = list(islice(batches(STREAM, length=8, batch_size=3, seed=seed, start_step=start), 2))
    for (inputs, targets), (again, targets_again) in zip(whole[start:], rest, strict=True):
        assert torch.equal(inputs, again)
        assert torch.equal(targets, targets_again)


def test_seeds_and_steps_draw_different_windows() -> None:
    drawn = {tuple(window_starts(10**6, 8, 4, seed, step)) for seed in range(20) for step in range(20)}
    assert len(drawn) == 400


def test_windows_reach_both_ends_of_the_stream() -> None:
    starts = np.concatenate([window_starts(20, 8, 64, 0, step) for step in range(20)])
    assert set(starts) == set(range(12))


def test_a_stream_of_one_window_is_enough_and_less_is_not() -> None:
    inputs, targets = next(batches(STREAM[:9], length=8, batch_size=2, seed=0))
    assert inputs[1].tolist() == list(range(8))
    assert targets[1, -1] == 8
    with pytest.raises(StarError, match="8 tokens, too few for one sequence of 8"):
        batches(STREAM[:8], length=8, batch_size=2, seed=0)


def test_impossible_arguments_are_refused_at_once() -> None:
    with pytest.raises(StarError, match="seed -1"):
        batches(STREAM, length=8, batch_size=2, seed=-1)
    with pytest.raises(StarError, match="at least 1"):
        batches(STREAM, length=8, batch_size=0, seed=1)
