from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star.errors import StarError
from star.training import Precision, TrainingRecipe

SMALL: dict[str, Any] = {"tokens": 10_000, "batch_tokens": 1000, "warmup_tokens": 1000, "length": 100}


def test_the_paper_can_be_expressed() -> None:
    recipe = TrainingRecipe(tokens=1_300_000_000, batch_tokens=2**18, warmup_tokens=130_000_000, length=4096)
    assert (recipe.batch_size, recipe.steps) == (64, 4959)
    assert (recipe.peak_learning_rate, recipe.weight_decay, recipe.clip) == (8e-4, 0.1, 1.0)
    assert recipe.betas == (0.9, 0.95)


def test_numbers_may_be_written_as_in_a_recipe_file() -> None:
    recipe = TrainingRecipe.model_validate({**SMALL, "tokens": 1.3e9, "precision": "fp32", "betas": [0.8, 0.9]})
    assert recipe.tokens == 1_300_000_000
    assert recipe.precision is Precision.FP32
    assert recipe.betas == (0.8, 0.9)


@settings(deadline=None)
@given(st.integers(1, 10**6), st.integers(1, 10**5), st.integers(1, 5000))
def test_steps_never_exceed_the_budget_and_waste_less_than_one(tokens: int, batch: int, length: int) -> None:
    try:
        recipe = TrainingRecipe(tokens=tokens, batch_tokens=batch, warmup_tokens=0, length=length)
    except StarError:
        assert tokens < max(batch, length)
        return
    assert recipe.steps >= 1
    assert tokens - recipe.step_tokens < recipe.steps * recipe.step_tokens <= tokens
    assert recipe.step_tokens == max(length, batch - batch % length)


@pytest.mark.parametrize(("micro", "size"), [(None, 10), (100, 1), (350, 3), (1, 1), (10**6, 10)])
def test_a_micro_batch_is_at_least_a_sequence_and_at_most_the_batch(micro: int | None, size: int) -> None:
    assert TrainingRecipe(**SMALL, micro_batch_tokens=micro).micro_batch_size == size


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": 0},
        {"tokens": 10.5},
        {"batch_tokens": 0},
        {"warmup_tokens": -1},
        {"length": 0},
        {"micro_batch_tokens": 0},
        {"peak_learning_rate": 0},
        {"peak_learning_rate": float("inf")},
        {"final_learning_rate_ratio": 1.1},
        {"betas": (0.9, 1.0)},
        {"betas": (0.9,)},
        {"weight_decay": -0.1},
        {"clip": 0},
        {"clip": float("nan")},
        {"precision": "fp16"},
        {"threads": 0},
        {"validation_tokens": 0},
    ],
)
def test_impossible_settings_are_refused_by_name(change: dict[str, Any]) -> None:
    with pytest.raises(StarError, match=next(iter(change))):
        TrainingRecipe(**{**SMALL, **change})


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(StarError, match="does not pay for one step of 1000 tokens"):
        TrainingRecipe(**{**SMALL, "tokens": 900, "warmup_tokens": 0})
    with pytest.raises(StarError, match="does not pay for one step of 20000 tokens"):
        TrainingRecipe(**{**SMALL, "length": 20_000})
    with pytest.raises(StarError, match="warmup_tokens = 10000 leaves nothing"):
        TrainingRecipe(**{**SMALL, "warmup_tokens": 10_000})


def test_another_budget_keeps_the_share_of_the_warm_up() -> None:
    recipe = TrainingRecipe(**SMALL).with_tokens(50_000)
    assert (recipe.tokens, recipe.warmup_tokens) == (50_000, 5000)


@given(
    st.integers(1, 40), st.one_of(st.none(), st.integers(1, 40)), st.integers(1, 64), st.integers(0, 64), st.booleans()
)
def test_threads_are_shared_between_parts_of_a_micro_batch(
    batch: int, micro: int | None, threads: int, most: int, compiled: bool
) -> None:
    """No thread is taken twice; of parts at a time there are `most`, and what of the next micro-batch fits threads that
    are left over."""
    before = TrainingRecipe(
        tokens=1000,
        batch_tokens=10 * batch,
        warmup_tokens=0,
        length=10,
        micro_batch_tokens=micro and 10 * micro,
        compile=compiled,
    )
    after = before.side_by_side(threads, most)
    replicas = after.replicas(threads, before.micro_batch_size)
    assert after.replace(threads=1, micro_batch_tokens=None) == before.replace(threads=1, micro_batch_tokens=None)
    assert replicas * after.threads <= threads
    if compiled or min(before.micro_batch_size, threads, most) < 2:
        assert (after.threads, after.micro_batch_tokens) == (threads, before.micro_batch_tokens)
        assert replicas == 1
    else:
        parts = math.ceil(before.micro_batch_size / after.micro_batch_size)
        assert 2 <= parts <= min(most, threads)
        assert replicas == parts


@pytest.mark.parametrize(
    ("threads", "sequences", "replicas"),
    [(1, 10, 1), (3, 10, 1), (4, 10, 2), (7, 10, 3), (64, 10, 3), (64, 8, 2)],
)
def test_other_machines_compute_as_many_micro_batches_at_a_time_as_they_can(
    threads: int, sequences: int, replicas: int
) -> None:
    recipe = TrainingRecipe(**SMALL, threads=2, micro_batch_tokens=400)  # of 4 sequences
    assert recipe.replicas(threads, sequences) == replicas
