"""The norm with the addition before it and the gated unit are their float64 references, outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_marks import NEEDS_COMPILER, implementations
from torch import Tensor
from torch.nn import functional

from star.liv.kernels import forced
from star.liv.kernels.gated_unit import GATED_UNIT, gated_unit
from star.liv.kernels.rms_norm import RMS_NORM, add_rms_norm

EPSILON = 1e-5


def random(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def compared(function, inputs: list[Tensor], implementation: str) -> list[tuple[Tensor, Tensor]]:
    """Outputs and gradients of all inputs, ours in float32 and the reference's in float64."""
    found = []
    for name, dtype in ((implementation, torch.float32), ("reference", torch.float64)):
        own = [tensor.to(dtype).requires_grad_() for tensor in inputs]
        with forced(name):
            outputs = function(*own)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        weights = [random(*output.shape, seed=place).to(dtype) for place, output in enumerate(outputs)]
        loss = sum((output * weight).sum() for output, weight in zip(outputs, weights, strict=True))
        found.append([*(output.detach() for output in outputs), *torch.autograd.grad(loss, own)])
    return list(zip(*found, strict=True))


def assert_close(pairs: list[tuple[Tensor, Tensor]], error: float = 5e-6) -> None:
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        assert float((ours - theirs).abs().max()) <= error * max(1.0, float(theirs.abs().max()))


shapes = st.tuples(st.integers(1, 3), st.integers(1, 300), st.integers(1, 70))


@pytest.fixture(autouse=True)
def _any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors, which are left to PyTorch otherwise, are easier to look at."""
    for module in ("rms_norm", "gated_unit"):
        monkeypatch.setattr(f"star.liv.kernels.{module}.FEWEST", 0)


@implementations
@settings(max_examples=25, deadline=None)
@given(shape=shapes, added=st.booleans(), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_norm_is_the_reference(implementation: str, shape: tuple[int, int, int], added: bool, scale: float) -> None:
    x, update, weight = random(*shape, seed=1, scale=scale), random(*shape, seed=2), random(shape[-1], seed=3)
    if added:
        pairs = compared(lambda x, u, w: add_rms_norm(x, u, w, EPSILON), [x, update, weight], implementation)
    else:
        pairs = compared(lambda x, w: add_rms_norm(x, None, w, EPSILON), [x, weight], implementation)
    assert_close(pairs, 2e-5)


@implementations
def test_norm_is_torchs(implementation: str) -> None:
    x, weight = random(2, 9, 24, seed=0), random(24, seed=1)
    with forced(implementation):
        total, y = add_rms_norm(x, None, weight, EPSILON)
    assert total is x
    torch.testing.assert_close(y, functional.rms_norm(x, (24,), weight, EPSILON))


@implementations
def test_only_the_sum_or_only_the_norm_may_be_read(implementation: str) -> None:
    for read in (0, 1):
        x, update, weight = random(2, 5, 16, seed=0), random(2, 5, 16, seed=1), random(16, seed=2)
        pairs = compared(
            lambda x, u, w, read=read: add_rms_norm(x, u, w, EPSILON)[read] * w, [x, update, weight], implementation
        )
        assert_close(pairs)


@implementations
@settings(max_examples=25, deadline=None)
@given(shape=shapes, scale=st.sampled_from([1.0, 30.0, 1e4]))
def test_gated_unit_is_the_reference(implementation: str, shape: tuple[int, int, int], scale: float) -> None:
    gate, up = random(*shape, seed=1, scale=scale), random(*shape, seed=2)
    pairs = compared(gated_unit, [gate, up], implementation)
    assert all(bool(ours.isfinite().all()) for ours, _ in pairs)
    assert_close(pairs)


@implementations
def test_views_that_are_not_contiguous(implementation: str) -> None:
    gate, up = random(2, 6, 10, seed=0).transpose(0, 1), random(6, 2, 20, seed=1)[..., ::2]
    assert_close(compared(gated_unit, [gate, up], implementation))
    weight = random(10, seed=2)
    assert_close(compared(lambda x, u, w: add_rms_norm(x, u, w, EPSILON), [gate, up, weight], implementation))


@NEEDS_COMPILER
def test_threads_change_no_bit() -> None:
    inputs = [random(4, 400, 24, seed=0), random(4, 400, 24, seed=1), random(24, seed=2)]
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            pairs = compared(lambda x, u, w: add_rms_norm(x, u, w, EPSILON), inputs, "native")
            found.append([ours for ours, _ in pairs])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@NEEDS_COMPILER
def test_other_types_run_portable() -> None:
    x = random(1, 2, 8, seed=0)
    assert RMS_NORM.chosen(x, None, random(8, seed=1), EPSILON) == "native"
    assert RMS_NORM.chosen(x, x.half(), random(8, seed=1), EPSILON) == "portable"
    assert GATED_UNIT.chosen(x, x) == "native"
    assert GATED_UNIT.chosen(x.half(), x.half()) == "portable"
