"""Convolutions against their sums written out, in float64: outputs and gradients, in any blocks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from star.liv.kernels import convolution
from star.liv.kernels.convolution import gated_short_convolution, short_convolution
from star.liv.kernels.long_convolution import long_convolution


def plain(x: Tensor, kernel: Tensor) -> Tensor:
    """y_t = Σ_s kernel[:, t - s] ⊙ x_s, lag by lag."""
    length = x.shape[1]
    y = torch.zeros_like(x)
    for lag in range(min(length, kernel.shape[1])):
        y = y + torch.cat([torch.zeros_like(x[:, :lag]), x[:, : length - lag]], 1) * kernel[:, lag]
    return y


def gated(x: Tensor, gate_in: Tensor, gate_out: Tensor, weight: Tensor) -> Tensor:
    return gate_out * plain(gate_in * x, weight.flip(1))


def numbers(*shapes: tuple[int, ...], seed: int = 0, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]


def check(ours: Tensor, expected: Tensor, leaves: list[Tensor], tolerance: float = 1e-11) -> None:
    scale = float(expected.detach().abs().max()) + 1e-300
    torch.testing.assert_close(ours / scale, expected / scale, rtol=tolerance, atol=tolerance)
    (weights,) = numbers(tuple(expected.shape), seed=9)
    found, wanted = (torch.autograd.grad((y * weights).sum(), leaves) for y in (ours, expected))
    for one, other in zip(found, wanted, strict=True):
        scale = float(other.abs().max()) + 1e-300
        torch.testing.assert_close(one / scale, other / scale, rtol=tolerance, atol=tolerance)


shapes = given(
    batch=st.integers(1, 5),
    length=st.integers(1, 40),
    channels=st.integers(1, 4),
    taps=st.integers(1, 6),
    block=st.integers(1, 200),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 1e30]),
    seed=st.integers(0, 99),
)


@settings(max_examples=150, deadline=None)
@shapes
def test_short_convolutions(
    batch: int, length: int, channels: int, taps: int, block: int, scale: float, seed: int
) -> None:
    shape = (batch, length, channels)
    x, gate_in, gate_out = (t.requires_grad_() for t in numbers(shape, shape, shape, seed=seed, scale=scale))
    weight = numbers((channels, taps), seed=seed)[0].requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "BLOCK_ELEMENTS", block)
        check(short_convolution(x, weight), plain(x, weight.flip(1)), [x, weight])
        leaves = [x, gate_in, gate_out, weight]
        check(gated_short_convolution(*leaves), gated(*leaves), leaves)


@settings(max_examples=100, deadline=None)
@shapes
def test_long_convolutions(
    batch: int, length: int, channels: int, taps: int, block: int, scale: float, seed: int
) -> None:
    (x,) = numbers((batch, length, channels), seed=seed, scale=scale)
    for rows, lags in ((channels, length), (1, taps), (channels, length + taps)):
        (kernel,) = numbers((rows, lags), seed=seed)
        leaves = [x.requires_grad_(), kernel.requires_grad_()]
        known = kernel[:, :length]
        check(long_convolution(x, kernel), plain(x, known), leaves, 1e-10)


def test_one_tap_for_all_channels_and_other_dtypes() -> None:
    x, gate_in, gate_out, weight = numbers((2, 9, 3), (2, 9, 3), (2, 9, 3), (1, 3))
    leaves = [tensor.requires_grad_() for tensor in (x, gate_in, gate_out, weight)]
    check(gated_short_convolution(*leaves), gated(*leaves), leaves)
    check(short_convolution(x, weight), plain(x, weight.flip(1)), [x, weight])
    mixed = gated_short_convolution(x.bfloat16(), gate_in.float(), gate_out.float(), weight.float())
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed.double(), gated(*leaves), rtol=0.05, atol=0.05)


def test_only_what_is_asked_for() -> None:
    x, kernel = numbers((2, 9, 3), (3, 9))
    for leaf in (x, kernel):
        leaf.requires_grad_()
        found, wanted = (torch.autograd.grad(f(x, kernel).square().sum(), leaf) for f in (long_convolution, plain))
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
        leaf.requires_grad_(False)


def test_strided_inputs() -> None:
    x, gate_in, gate_out, weight = numbers((2, 3, 90), (90, 2, 3), (2, 90, 3), (3, 3))
    leaves = [tensor.requires_grad_() for tensor in (x, gate_in, gate_out, weight)]
    inputs = (x.transpose(1, 2), gate_in.transpose(0, 1), gate_out, weight)
    check(gated_short_convolution(*inputs), gated(*inputs), leaves)
    check(long_convolution(inputs[0], weight), plain(inputs[0], weight), [x, weight])


@pytest.mark.parametrize("length", [1, 255, 4096])
def test_float32_long_convolutions(length: int) -> None:
    x, kernel = numbers((1, length, 4), (4, length))
    error = long_convolution(x.float(), kernel.float()).double() - long_convolution(x, kernel)
    assert float(error.norm() / long_convolution(x, kernel).norm()) < 1e-6
