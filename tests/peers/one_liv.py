"""A backbone of one LIV in float64, and what is around the operator in it, written independently."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import torch
from torch import Tensor

from star.backbone import Backbone
from star.genome import LivClass, OptionPool
from star.genome.variation import unconnected


def backbone_of(row: LivClass, width: int, length: int = 64, seed: int = 0) -> Backbone:
    """y = x + T(norm(x)) norm(x) with random weights, those of the norm too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = Backbone(unconnected([row.id]), OptionPool("one", (row,)), width=width, length=length).double()
        torch.nn.init.uniform_(backbone.norms[0].weight, 0.5, 1.5)
    return backbone


def normed(backbone: Backbone, x: Tensor) -> Tensor:
    """What the LIV reads: x over its root mean square."""
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * backbone.norms[0].weight


def random_input(batch: int, length: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, length, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def check_outputs_and_gradients(backbone: Backbone, reference: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """The backbone's parallel pass gives the reference's outputs, and gradients of x and of every weight."""
    weights = random_input(*x.shape, seed=1)
    x = x.requires_grad_()
    wanted = [x, *backbone.parameters()]
    ours, theirs = backbone(x), reference(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    gradients = [torch.autograd.grad((y * weights).sum(), wanted) for y in (ours, theirs)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def check_cached(backbone: Backbone, reference: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Token by token, and in chunks of random sizes, the backbone gives the reference's outputs."""
    length, rng = x.shape[1], Random(0)
    sizes = [rng.randint(1, 90) for _ in range(length)]
    with torch.no_grad():
        expected = reference(x)
        for cuts in ([1] * length, sizes):
            state, outputs, start = backbone.init_state(x.shape[0], length), [], 0
            for size in cuts:
                if start < length:
                    outputs.append(backbone(x[:, start : start + size], state))
                start += size
            torch.testing.assert_close(torch.cat(outputs, 1), expected, rtol=1e-11, atol=1e-11)
