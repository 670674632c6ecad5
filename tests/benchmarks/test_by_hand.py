"""The step that is written out by hand computes what it is to take the time of."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from by_hand import ByHand

PAIRS, WIDTH, HIDDEN, VOCAB, LENGTH, HEADS = 2, 32, 48, 50, 24, 2


def normed(x: Tensor) -> Tensor:
    return x * x.square().mean(-1, keepdim=True).rsqrt()


@pytest.mark.parametrize("batch", [4, 12, 16])
def test_gradients_are_those_of_automatic_differentiation(batch: int) -> None:
    torch.manual_seed(0)
    model = ByHand(PAIRS, WIDTH, HIDDEN, VOCAB, batch, LENGTH, HEADS)
    tokens, targets = torch.randint(0, VOCAB, (2, batch, LENGTH)).unbind()
    loss = model.loss(tokens, targets)

    weights = [weight.detach().double().requires_grad_() for weight in model.weights]
    turns = model.turns[:, :HEADS].to(torch.complex128)

    def heads(x: Tensor, turned: bool) -> Tensor:
        if turned:
            x = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turns).flatten(-2)
        return x.transpose(1, 2)

    x = functional.embedding(tokens, weights[-1])
    for pair in range(PAIRS):
        qkv, out, gate, up, down = weights[5 * pair : 5 * pair + 5]
        q, k, v = (normed(x) @ qkv.t()).unflatten(-1, (3 * HEADS, -1)).chunk(3, 2)
        y = functional.scaled_dot_product_attention(heads(q, True), heads(k, True), heads(v, False), is_causal=True)
        x = x + y.transpose(1, 2).flatten(2) @ out.t()
        z = normed(x)
        x = x + (functional.silu(z @ gate.t()) * (z @ up.t())) @ down.t()
    expected = functional.cross_entropy((x @ weights[-1].t()).flatten(0, 1), targets.flatten())
    expected.backward()

    assert torch.allclose(loss.double(), expected, rtol=1e-5)
    for weight, wanted in zip(model.weights, weights, strict=True):
        own = weight.grad.double() / tokens.numel()  # it leaves out the mean
        assert (own - wanted.grad).norm() < 1e-5 * wanted.grad.norm()
