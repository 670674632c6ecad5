"""Reading at real-valued distances for GPUs. Backward adds up nothing by place: as no shift is longer than the window,
what a value gives to the tokens after it is looked up, ∂L/∂v_j = Σ_w max(0, 1 - |s_{j+w} - w|) ∂L/∂y_{j+w} for w from 0
to the window. That is as much work as atomic additions are at usual windows, and always the same sum.
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

TIMES, CHANNELS, WARPS = 16, 128, 4  # of a tile
SIZES = ["length", "lead", "parts", "blocks"]  # one compilation serves all of them


@triton.jit
def _read(values, values_time, shift, shift_time, times, lead, d, inside):
    """The two values between which each output lies, and how far it is from the nearer one to the farther one."""
    s = tl.load(shift + times[:, None] * shift_time + d[None, :], mask=inside, other=0.0).to(tl.float32)
    # A lag that is no number must not read elsewhere.
    lag = tl.minimum(tl.maximum(tl.where(s == s, tl.floor(s), 0.0), 0.0), lead - 1.0)
    place = values + (times[:, None] + lead - lag.to(tl.int64)) * values_time + d[None, :]
    near = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    far = tl.load(place - values_time, mask=inside, other=0.0).to(tl.float32)
    return near, far, s - lag


@triton.jit(do_not_specialize=SIZES)
def _forward(
    values, shift, y, values_batch, values_time, shift_batch, shift_time,
    length, lead, channels, parts, blocks, T: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    batch = (tl.program_id(0) // (parts * blocks)).to(tl.int64)
    times = (tl.program_id(0) // blocks % parts * T + tl.arange(0, T)).to(tl.int64)
    d = tl.program_id(0) % blocks * D + tl.arange(0, D)
    inside = (times < length)[:, None] & (d < channels)[None, :]
    values, shift = values + batch * values_batch, shift + batch * shift_batch
    near, far, fraction = _read(values, values_time, shift, shift_time, times, lead, d, inside)
    at = (batch * length + times[:, None]) * channels + d[None, :]
    tl.store(y + at, near + fraction * (far - near), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def _shift_backward(
    values, shift, d_y, d_shift, values_batch, values_time, shift_batch, shift_time, y_batch, y_time,
    length, lead, channels, parts, blocks, T: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    batch = (tl.program_id(0) // (parts * blocks)).to(tl.int64)
    times = (tl.program_id(0) // blocks % parts * T + tl.arange(0, T)).to(tl.int64)
    d = tl.program_id(0) % blocks * D + tl.arange(0, D)
    inside = (times < length)[:, None] & (d < channels)[None, :]
    values, shift = values + batch * values_batch, shift + batch * shift_batch
    near, far, _ = _read(values, values_time, shift, shift_time, times, lead, d, inside)
    g = tl.load(d_y + batch * y_batch + times[:, None] * y_time + d[None, :], mask=inside, other=0.0).to(tl.float32)
    at = (batch * length + times[:, None]) * channels + d[None, :]
    tl.store(d_shift + at, g * (far - near), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def _values_backward(
    shift, d_y, d_values, shift_batch, shift_time, y_batch, y_time,
    length, lead, channels, parts, blocks, T: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    batch = (tl.program_id(0) // (parts * blocks)).to(tl.int64)
    first, t = tl.program_id(0) // blocks % parts * T, tl.arange(0, T)
    d = tl.program_id(0) % blocks * D + tl.arange(0, D)
    channel = d < channels
    shift, d_y = shift + batch * shift_batch, d_y + batch * y_batch
    total = tl.zeros((T, D), tl.float32)
    for row in range(lead + T):  # the tokens that may read this tile, one by one; the tile stays in registers
        time = (first - lead + row).to(tl.int64)
        inside = channel & (time >= 0) & (time < length)
        s = tl.load(shift + time * shift_time + d, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(d_y + time * y_time + d, mask=inside, other=0.0).to(tl.float32)
        away = (s - row)[None, :] + t.to(tl.float32)[:, None]  # from where this place lies
        total += tl.maximum(1.0 - tl.abs(away), 0.0) * g[None, :]
    places = (first + t).to(tl.int64)
    at = (batch * (lead + length) + places[:, None]) * channels + d[None, :]
    tl.store(d_values + at, total, mask=(places < lead + length)[:, None] & channel[None, :])


def resample(values: Tensor, shift: Tensor) -> Tensor:
    """Takes what the operator takes; shifts are float32, values of any precision. y has that of the values."""
    y: Tensor = _Resample.apply(values, shift)
    return y


class _Resample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, shift: Tensor) -> Tensor:
        values, shift = side_by_side(values), side_by_side(shift)
        ctx.save_for_backward(values, shift)
        y = values.new_empty(shift.shape)
        grid, sizes, cut = _launch(values, shift, shift.shape[1])
        with on(values):
            _forward[grid](values, shift, y, *values.stride()[:2], *shift.stride()[:2], *sizes, **cut)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, Tensor | None]:
        values, shift = ctx.saved_tensors
        d_y, d_values, d_shift = side_by_side(d_y), None, None
        strides = (*shift.stride()[:2], *d_y.stride()[:2])
        with on(values):
            if ctx.needs_input_grad[0]:
                d_values = values.new_empty(values.shape)
                grid, sizes, cut = _launch(values, shift, values.shape[1])
                _values_backward[grid](shift, d_y, d_values, *strides, *sizes, **cut)
            if ctx.needs_input_grad[1]:
                d_shift = shift.new_empty(shift.shape)
                grid, sizes, cut = _launch(values, shift, shift.shape[1])
                _shift_backward[grid](values, shift, d_y, d_shift, *values.stride()[:2], *strides, *sizes, **cut)
        return d_values, d_shift


def _launch(
    values: Tensor, shift: Tensor, times: int
) -> tuple[tuple[int], tuple[int, int, int, int, int], dict[str, int]]:
    """The number of programs for so many times; length, lead, channels, tiles in time and in channels; the tile."""
    batch, length, channels = shift.shape
    tile = min(CHANNELS, triton.next_power_of_2(channels))
    parts, blocks = triton.cdiv(times, TIMES), triton.cdiv(channels, tile)
    sizes = (length, values.shape[1] - length, channels, parts, blocks)
    return (batch * parts * blocks,), sizes, {"T": TIMES, "D": tile, "num_warps": WARPS}
