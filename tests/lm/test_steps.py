"""Decoding by the plan of a backbone is the ordinary pass, whatever the genome, and notices changed weights."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from views import POOL, VOCAB, tiny

from star import LanguageModel
from star.backbone import State
from star.genome import Extension, random_genome

EVERYTHING = POOL.with_extensions(*Extension)


@contextmanager
def ordinary(model: LanguageModel) -> Iterator[None]:
    """No plan: modules only."""
    decoder = model.backbone._decoder
    decoder.plan = lambda *_: None  # type: ignore[method-assign]
    yield
    del decoder.plan


def decoded(model: LanguageModel, tokens: torch.Tensor, state: State, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Logits of a prompt of 5 tokens, then token by token; in the middle the batch is forked and turned round."""
    outputs = [model(tokens[:, :5], state, mask)]
    for t in range(5, tokens.shape[1]):
        if t == 8:
            model(tokens[:, t : t + 1], state.fork())  # changes nothing
            turn = torch.arange(tokens.shape[0]).flip(0)
            state = state.reorder(turn).reorder(turn)
        outputs.append(model(tokens[:, t : t + 1], state))
    return torch.cat(outputs, 1)


def check_steps(model: LanguageModel, tolerance: float, length: int = 11) -> None:
    tokens = torch.randint(0, VOCAB, (2, length), generator=torch.Generator().manual_seed(3))
    mask = torch.ones(2, 5)
    mask[1, :2] = 0
    with torch.no_grad():
        for room, padding in ((length, None), (length + 90, mask)):
            stepped = decoded(model, tokens, model.init_state(2, room), padding)
            with ordinary(model):
                expected = decoded(model, tokens, model.init_state(2, room), padding)
            real = slice(None) if padding is None else slice(2, None)
            torch.testing.assert_close(stepped[:, real], expected[:, real], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("liv", "strategy"), [(liv, s) for liv in POOL.ids for s in range(1, len(POOL[liv].strategies) + 1)]
)
def test_every_class_and_sharing_strategy(liv: int, strategy: int) -> None:
    model = tiny(f"{liv}.1.1.1.1 9.1.1.1.1 {liv}.1.{1 + strategy % 2}.1.{strategy}")
    check_steps(model, 1e-9)


@pytest.mark.parametrize("liv", POOL.ids)
def test_in_single_precision(liv: int) -> None:
    check_steps(tiny(f"{liv}.1.1.1.1").float(), 1e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_random_backbones_with_all_extensions(seed: int, depth: int) -> None:
    check_steps(tiny(random_genome(EVERYTHING, depth, Random(seed)), 16, pool=EVERYTHING), 1e-9, length=10)


@pytest.mark.parametrize("liv", [5, 19, 21, 23, 24, 26, 31])
def test_rings_wrap_around(liv: int) -> None:
    """Beyond every window, where a prompt of many tokens is followed by single ones and by chunks."""
    model = tiny(f"{liv}.1.1.1.1 9.1.1.1.1")
    tokens = torch.randint(0, VOCAB, (2, 150), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        state, outputs, start = model.init_state(2, 150), [], 0
        for size in (70, *[1] * 9, 5, *[1] * 60, 6):
            outputs.append(model(tokens[:, start : start + size], state))
            start += size
        torch.testing.assert_close(torch.cat(outputs, 1), model(tokens), rtol=1e-9, atol=1e-9)


def test_liquid_routers_and_their_favourite() -> None:
    model = tiny("23.1.1.1.1.0.1.3 1.1.1.1.1.0.1.1 9.1.1.1.1.0.1.1 5.1.1.1.1.0.2.1", pool=EVERYTHING).eval()
    for enabled in (False, True):
        model.use_top1(enabled)
        check_steps(model, 1e-9)


def test_changed_weights_are_noticed() -> None:
    model = tiny("1.1.1.1.1 5.1.1.1.1 20.1.1.1.1 7.1.1.1.1")
    tokens = torch.randint(0, VOCAB, (1, 6))

    def check() -> None:
        with torch.no_grad():
            state = model.init_state(1, 6)
            steps = torch.cat([model(tokens[:, t : t + 1], state) for t in range(6)], 1)
            torch.testing.assert_close(steps, model(tokens), rtol=1e-9, atol=1e-9)

    check()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    optimizer.step()
    check()
    other = {name: value * 1.1 for name, value in model.state_dict().items()}
    model.load_state_dict(other)
    check()
    model.load_state_dict({name: value * 0.9 for name, value in other.items()}, assign=True)
    check()
    for parameter in model.parameters():
        parameter.data = parameter.data * 0.5
    check()


def test_copies_have_plans_of_their_own() -> None:
    model = tiny("1.1.1.1.1 5.1.1.1.1")
    token, generator = torch.ones(1, 1, dtype=torch.long), torch.Generator().manual_seed(0)
    with torch.no_grad():
        first = model(token, model.init_state(1, 3))
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(token, other.init_state(1, 3)), first)
            for parameter in other.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
            torch.testing.assert_close(other(token, other.init_state(1, 3)), other(token), rtol=1e-9, atol=1e-9)
        assert torch.equal(model(token, model.init_state(1, 3)), first)


def test_weights_made_in_inference_mode_decode_too() -> None:
    with torch.inference_mode():
        model = tiny("1.1.1.1.1 20.1.1.1.1 8.1.1.1.1")
        tokens = torch.randint(0, VOCAB, (1, 6))
        state = model.init_state(1, 6)
        steps = torch.cat([model(tokens[:, t : t + 1], state) for t in range(6)], 1)
        torch.testing.assert_close(steps, model(tokens), rtol=1e-9, atol=1e-9)
