"""Short causal depthwise convolutions for GPUs, with or without gates: y_t = C_t Σ_k w_k B_{t-n+1+k} x_{t-n+1+k}.

Each program computes a tile [time, channels] and reads the few inputs before it again. Backward does the same with the
inputs after it; nothing but the inputs is kept. Gradients of the taps are summed by tile, then over tiles.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from star.liv.kernels.native import side_by_side
from star.liv.kernels.triton import on

TIMES, CHANNELS, WARPS = 32, 64, 4  # of a tile
SIZES = ["length", "parts", "blocks"]  # one compilation serves all of them


@triton.jit
def _u(x, gate, x_time, gate_time, times, length, d, channel, GATED: tl.constexpr):
    """B ⊙ x, zeros outside of the sequence."""
    inside = ((times >= 0) & (times < length))[:, None] & channel[None, :]
    u = tl.load(x + times[:, None] * x_time + d[None, :], mask=inside, other=0.0).to(tl.float32)
    if GATED:
        u *= tl.load(gate + times[:, None] * gate_time + d[None, :], mask=inside, other=0.0).to(tl.float32)
    return u


@triton.jit(do_not_specialize=SIZES)
def _forward(
    x, gate_in, gate_out, weight, y,
    x_batch, x_time, in_batch, in_time, out_batch, out_time, weight_channel, weight_tap,
    length, channels, parts, blocks,
    GATED: tl.constexpr, TAPS: tl.constexpr, T: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    batch = (tl.program_id(0) // (parts * blocks)).to(tl.int64)
    times = (tl.program_id(0) // blocks % parts * T + tl.arange(0, T)).to(tl.int64)
    d = tl.program_id(0) % blocks * D + tl.arange(0, D)
    channel = d < channels
    x, gate_in, gate_out = x + batch * x_batch, gate_in + batch * in_batch, gate_out + batch * out_batch
    total = tl.zeros((T, D), tl.float32)
    for tap in tl.static_range(TAPS):
        u = _u(x, gate_in, x_time, in_time, times - (TAPS - 1 - tap), length, d, channel, GATED)
        total += u * tl.load(weight + d * weight_channel + tap * weight_tap, mask=channel, other=0.0).to(tl.float32)
    if GATED:
        total *= _u(gate_out, gate_out, out_time, out_time, times, length, d, channel, False)
    inside = (times < length)[:, None] & channel[None, :]
    tl.store(y + (batch * length + times[:, None]) * channels + d[None, :], total, mask=inside)


@triton.jit(do_not_specialize=SIZES)
def _backward(
    x, gate_in, gate_out, weight, d_y, d_x, d_in, d_out, d_weight,
    x_batch, x_time, in_batch, in_time, out_batch, out_time, weight_channel, weight_tap, y_batch, y_time,
    length, channels, parts, blocks,
    GATED: tl.constexpr, TAPS: tl.constexpr, T: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    tile = (tl.program_id(0) // blocks).to(tl.int64)
    batch = tile // parts
    times = tile % parts * T + tl.arange(0, T)
    d = tl.program_id(0) % blocks * D + tl.arange(0, D)
    channel = d < channels
    x, gate_in, gate_out = x + batch * x_batch, gate_in + batch * in_batch, gate_out + batch * out_batch
    d_y += batch * y_batch
    g = _u(d_y, gate_out, y_time, out_time, times, length, d, channel, GATED)
    d_u = tl.zeros((T, D), tl.float32)
    total = tl.zeros((T, D), tl.float32)
    for tap in tl.static_range(TAPS):
        lag = TAPS - 1 - tap
        taps = tl.load(weight + d * weight_channel + tap * weight_tap, mask=channel, other=0.0).to(tl.float32)
        u = _u(x, gate_in, x_time, in_time, times - lag, length, d, channel, GATED)
        d_u += taps * _u(d_y, gate_out, y_time, out_time, times + lag, length, d, channel, GATED)
        total += taps * u
        tl.store(d_weight + (tile * TAPS + tap) * channels + d, tl.sum(g * u, 0), mask=channel)
    inside = (times < length)[:, None] & channel[None, :]
    at = (batch * length + times[:, None]) * channels + d[None, :]
    if GATED:
        tl.store(d_out + at, total * _u(d_y, d_y, y_time, y_time, times, length, d, channel, False), mask=inside)
        tl.store(d_in + at, d_u * _u(x, x, x_time, x_time, times, length, d, channel, False), mask=inside)
        d_u *= _u(gate_in, gate_in, in_time, in_time, times, length, d, channel, False)
    tl.store(d_x + at, d_u, mask=inside)


def short_convolution(x: Tensor, weight: Tensor, tail: None = None) -> Tensor:
    """Takes what the operator takes from the start of sequences, where there is no tail."""
    return gated_short_convolution(x, None, None, weight)


def gated_short_convolution(x: Tensor, gate_in: Tensor | None, gate_out: Tensor | None, weight: Tensor) -> Tensor:
    """Takes what the operator takes, in any mixture of precisions; y has the widest of them."""
    y: Tensor = _ShortConvolution.apply(x, gate_in, gate_out, weight)
    return y


class _ShortConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate_in: Tensor | None, gate_out: Tensor | None, weight: Tensor) -> Tensor:
        x = side_by_side(x)
        gate_in, gate_out = (None if gate is None else side_by_side(gate) for gate in (gate_in, gate_out))
        dtype = x.dtype
        for other in (weight, gate_in, gate_out):
            dtype = dtype if other is None else torch.promote_types(dtype, other.dtype)
        ctx.save_for_backward(x, gate_in, gate_out, weight)
        y = x.new_empty(x.shape, dtype=dtype)
        grid, sizes, cut = _launch(x)
        with on(x):
            _forward[grid](
                x, *(x if gate is None else gate for gate in (gate_in, gate_out)), weight, y,
                *_strides(x, gate_in, gate_out, weight), *sizes,
                GATED=gate_in is not None, TAPS=weight.shape[1], **cut,
            )  # fmt: skip
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        x, gate_in, gate_out, weight = ctx.saved_tensors
        d_y = side_by_side(d_y)
        d_x = x.new_empty(x.shape)
        d_in, d_out = (None if gate is None else gate.new_empty(gate.shape) for gate in (gate_in, gate_out))
        grid, sizes, cut = _launch(x)
        d_weight = x.new_empty((x.shape[0] * sizes[2], weight.shape[1], x.shape[2]), dtype=torch.float32)
        with on(x):
            _backward[grid](
                x, *(x if gate is None else gate for gate in (gate_in, gate_out)), weight, d_y,
                d_x, *(d_x if gate is None else gate for gate in (d_in, d_out)), d_weight,
                *_strides(x, gate_in, gate_out, weight), *d_y.stride()[:2], *sizes,
                GATED=gate_in is not None, TAPS=weight.shape[1], **cut,
            )  # fmt: skip
        taps = d_weight.sum(0).t()
        if weight.shape[0] == 1:
            taps = taps.sum(0, keepdim=True)
        return d_x, d_in, d_out, taps.to(weight.dtype)


def _launch(x: Tensor) -> tuple[tuple[int], tuple[int, int, int, int], dict[str, int]]:
    """The number of programs; length, channels, tiles in time and in channels; the tile."""
    batch, length, channels = x.shape
    tile = min(CHANNELS, triton.next_power_of_2(channels))
    parts, blocks = triton.cdiv(length, TIMES), triton.cdiv(channels, tile)
    return (batch * parts * blocks,), (length, channels, parts, blocks), {"T": TIMES, "D": tile, "num_warps": WARPS}


def _strides(x: Tensor, gate_in: Tensor | None, gate_out: Tensor | None, weight: Tensor) -> tuple[int, ...]:
    gates = ((0, 0) if gate is None else gate.stride()[:2] for gate in (gate_in, gate_out))
    shared = weight.shape[0] == 1
    return (*x.stride()[:2], *next(gates), *next(gates), 0 if shared else weight.stride(0), weight.stride(1))
