"""The gated unit with its maps in one: what a LIV makes of it, and what nobody wants is not computed."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from kernel_marks import implementations
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

from star import OptionPool
from star.liv import LIV
from star.liv.kernels import forced
from star.liv.kernels import gated_mlp as module
from star.liv.kernels.gated_mlp import BLOCK, BLOCK_OF_HALVES

GATED_UNIT = 9


def gated_mlp(*given: Tensor) -> Tensor:
    """Of tokens as they are."""
    x, *weights = given
    return module.gated_mlp(x, None, None, 0.0, *weights)[1]


def inputs(
    tokens: int = BLOCK + 7, dtype: torch.dtype = torch.float32, sizes: tuple[int, int, int] = (16, 24, 8)
) -> list[Tensor]:
    d, h, outputs = sizes
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, tokens, d), (h, d), (h, d), (outputs, h)]
    return [torch.randn(shape, dtype=dtype, generator=generator) for shape in shapes]


IN_CACHE = [(16, 24, 16), (64, 168, 64), (48, 1, 16), (32, 100, 80), (64, 256, 64)]


def both(given: list[Tensor], implementation: str) -> tuple[Tensor, ...]:
    with forced(implementation):
        y = gated_mlp(*given)
        return y, *torch.autograd.grad(y, given, torch.cos(torch.arange(y.numel())).view_as(y))


@implementations
@pytest.mark.parametrize("tokens", [1, 7, 64, 65, 1023, 1025, 2500])
@pytest.mark.parametrize("sizes", IN_CACHE)
def test_blocks_tasks_and_rests_add_up(implementation: str, tokens: int, sizes: tuple[int, int, int]) -> None:
    given = [tensor.requires_grad_() for tensor in inputs(tokens, sizes=sizes)]
    for one, other in zip(both(given, implementation), both(given, "reference"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.detach().abs().max()))


@implementations
def test_the_same_for_any_number_of_threads(implementation: str) -> None:
    given = [tensor.requires_grad_() for tensor in inputs(3000, sizes=(64, 168, 64))]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(both(given, implementation))
    finally:
        torch.set_num_threads(before)
    if implementation == "native":  # products of the other may be divided among threads by MKL
        assert all(torch.equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))
    for other in found[1:]:
        for pair in zip(found[0], other, strict=True):
            torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-4)


@implementations
@pytest.mark.parametrize("tokens", [1, 200])
def test_a_liv_computes_alike_without_gradients(implementation: str, tokens: int) -> None:
    liv, x = LIV(OptionPool.paper()[GATED_UNIT], 64), torch.randn(2, tokens, 64)
    with forced(implementation):
        expected = liv(x)
        with torch.no_grad():
            torch.testing.assert_close(liv(x), expected)
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            assert liv(x).dtype is torch.bfloat16
    with torch.no_grad():
        assert liv.to("meta")(x.to("meta")).shape == x.shape


@implementations
def test_gates_of_any_size(implementation: str) -> None:
    """One channel that lets its input through: y = swish(g), and its derivative, for each token."""
    gates = [0.0, -88.0, 88.0, -104.0, -1e10, 1e10, -1e38, 1e38, -math.inf, math.inf, math.nan]
    x = torch.zeros(len(gates) * 8, 16)
    x[:, 0] = torch.tensor(gates * 8)
    x[:, 1] = 1
    gate, up, down = torch.zeros(1, 16), torch.zeros(1, 16), torch.zeros(16, 1)
    gate[0, 0] = up[0, 1] = down[0, 0] = 1
    exact = x[:, 0].double().requires_grad_()
    expected = torch.nn.functional.silu(exact)
    (slope,) = torch.autograd.grad(expected.sum(), exact)
    with forced(implementation):
        y = gated_mlp(x.requires_grad_()[None], gate, up, down)[0, :, 0]
        (found,) = torch.autograd.grad(y.sum(), x)
    finite = exact.detach().isfinite()
    torch.testing.assert_close(y[finite].double(), expected[finite], rtol=1e-5, atol=1e-30)
    torch.testing.assert_close(found[finite, 0].double(), slope[finite], rtol=1e-5, atol=1e-30)
    assert not bool(y[~finite].isfinite().any())


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, gate, up, down = inputs(100, sizes=(64, 168, 64))
    for wrong in ((x[..., :32], gate, up, down), (x, gate, up[:100], down), (x, gate, up, down[:, :100])):
        with pytest.raises(RuntimeError):
            gated_mlp(*wrong)


@implementations
@pytest.mark.parametrize("outputs", [8, 16])
@pytest.mark.parametrize("wanted", [each for each in product([False, True], repeat=4) if any(each)])
def test_each_gradient_alone_and_with_others(implementation: str, wanted: tuple[bool, ...], outputs: int) -> None:
    given = inputs(sizes=(16, 24, outputs))
    leaves = [tensor.requires_grad_(needed) for tensor, needed in zip(given, wanted, strict=True)]
    leaves = [tensor for tensor in leaves if tensor.requires_grad]
    found = []
    for name in (implementation, "reference"):
        with forced(name):
            found.append(torch.autograd.grad(gated_mlp(*given).square().sum(), leaves))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def test_sums_over_many_tokens_are_not_rounded_to_half_precision() -> None:
    """The gradient of a weight in bfloat16 is near to the exact one after 64 blocks, too."""
    exact = [tensor.requires_grad_() for tensor in inputs(64 * BLOCK_OF_HALVES, torch.float64)]
    rounded = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    expected = torch.autograd.grad(gated_mlp(*exact).sum(), exact[1:])
    found = torch.autograd.grad(gated_mlp(*rounded).sum(), rounded[1:])
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm() / other.norm()) < 6e-3


@implementations
@pytest.mark.parametrize("shape", [(0, 8, 64), (2, 0, 64), (1, 1, 64)])
def test_nothing_is_a_batch_too(implementation: str, shape: tuple[int, int, int]) -> None:
    liv = LIV(OptionPool.paper()[GATED_UNIT], 64)
    with forced(implementation):
        y = liv(torch.zeros(shape))
        y.sum().backward()
    assert y.shape == shape
    assert all(bool((parameter.grad == 0).all()) for parameter in liv.parameters())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("everywhere", [True, False])
def test_hooks_are_called(training: bool, everywhere: bool) -> None:
    liv, called = LIV(OptionPool.paper()[GATED_UNIT], 64), []
    x, names = torch.randn(1, 200, 64), {module: name for name, module in liv.named_modules()}

    def hook(module: torch.nn.Module, *_: object) -> None:
        called.append(names[module])

    expected = liv(x)
    handles = (
        [register_module_forward_hook(hook)]
        if everywhere
        else [module.register_forward_hook(hook) for module in liv.modules()]
    )
    try:
        with torch.set_grad_enabled(training):
            torch.testing.assert_close(liv(x), expected)
    finally:
        for handle in handles:
            handle.remove()
    operator = "branches.0"
    assert {f"{operator}.output", f"{operator}.mixer", f"{operator}.featurizer.groups.gate.project"} <= set(called)


def test_a_pruned_map_is_trained() -> None:
    """Pruning computes a weight anew before each call."""
    from torch.nn.utils import prune

    liv = LIV(OptionPool.paper()[GATED_UNIT], 64)
    prune.random_unstructured(liv.operators[0].output, "weight", 0.5)
    for _ in range(2):
        liv(torch.randn(1, 20, 64)).square().sum().backward()
    gone = liv.operators[0].output.weight_mask == 0
    assert bool((liv.operators[0].output.weight_orig.grad[gone] == 0).all())
