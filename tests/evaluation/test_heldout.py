from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from star.errors import StarError
from star.evaluation import perplexity
from star.training import Diverged


class Table(nn.Module):
    """Predicts from the last token alone: row t of `logits` are the logits of what follows t."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.seen: list[Tensor] = []

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        assert tokens.dtype == targets.dtype == torch.int64
        self.seen.append(tokens)
        return nn.functional.cross_entropy(self.logits[tokens].flatten(0, 1), targets.flatten())


def table(seed: int = 0) -> Table:
    return Table(torch.randn(10, 10, generator=torch.Generator().manual_seed(seed)))


STREAM = np.random.default_rng(0).integers(0, 10, 103).astype(np.uint16)


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary() -> None:
    found = perplexity(Table(torch.zeros(10, 10)), STREAM, length=8, bytes_per_token=2.0)
    assert found.loss == pytest.approx(math.log(10), rel=1e-6)
    assert found.perplexity == pytest.approx(10, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(math.log2(10) / 2, rel=1e-6)
    assert found.tokens == 96


def test_the_loss_is_the_mean_over_every_predicted_token() -> None:
    model = table()
    found = perplexity(model, STREAM, length=8, batch_size=5)  # 12 windows in batches of 5, 5 and 2
    logs = model.logits.detach().double().log_softmax(1).numpy()
    by_hand = -np.mean([logs[STREAM[place], STREAM[place + 1]] for place in range(96)])
    assert found.loss == pytest.approx(by_hand, rel=1e-6)
    assert found.bits_per_byte is None
    assert found.perplexity == math.exp(found.loss)


@settings(deadline=None)
@given(st.integers(1, 40))
def test_the_batch_size_does_not_change_the_result(batch_size: int) -> None:
    expected = perplexity(table(), STREAM, length=4).loss
    assert perplexity(table(), STREAM, length=4, batch_size=batch_size).loss == pytest.approx(expected, rel=1e-6)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 200), st.integers(2, 200))
def test_windows_never_overlap_and_spread_over_the_stream(length: int, tokens: int, count: int) -> None:
    stream = np.arange(count) % 10
    model = table()
    if count <= length:
        with pytest.raises(StarError, match=f"{count} validation tokens, too few"):
            perplexity(model, stream, length=length, tokens=tokens)
        return
    # With positions as embeddings the windows themselves are visible.
    places = Table(torch.zeros(count, count))
    found = perplexity(places, np.arange(count), length=length, tokens=tokens)
    seen = torch.cat(places.seen)
    available = (count - 1) // length
    assert len(seen) == min(available, max(1, tokens // length))
    assert found.tokens == seen.numel()
    assert seen.unique().numel() == seen.numel()
    starts = seen[:, 0]
    gaps = starts.diff() // length
    assert gaps.numel() == 0 or gaps.max() - gaps.min() <= 1
    assert starts[0] == 0
    assert starts[-1] // length >= available - available / len(seen) - 1  # to the end, not only the beginning


def test_the_model_keeps_its_mode_and_can_be_trained_afterwards() -> None:
    model = table()
    model.train()
    perplexity(model, STREAM, length=8)
    assert model.training
    assert model.logits.grad is None
    model.eval()
    perplexity(model, STREAM, length=8)
    assert not model.training


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_divergence(value: float) -> None:
    logits = torch.zeros(10, 10)
    logits[3, 3] = value
    with pytest.raises(Diverged, match="validation loss is nan"):
        perplexity(Table(logits), STREAM, length=8)


def test_a_loss_beyond_floating_point_has_infinite_perplexity() -> None:
    logits = torch.full((10, 10), -1e6)
    logits[:, 0] = 0
    assert perplexity(Table(logits), STREAM, length=8).perplexity == math.inf


def test_an_impossible_length_is_refused() -> None:
    with pytest.raises(StarError, match="length = 0"):
        perplexity(table(), STREAM, length=0)
