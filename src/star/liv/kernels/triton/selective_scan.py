"""The selective scan for GPUs. A program works through the time of one sequence and a block of channels, a tile
[time, states, channels] at a time. Tiles are cut so that a thread holds all times of its states and channels:
exponentials and products are made for a whole tile at once, and the recurrence, step by step, in registers.

Forward keeps h at the start of every chunk of tiles. Backward goes through chunks from the last to the first: once
forward for the h at the start of each tile, then backward, computing the rest of a tile again. What several blocks of
channels add to the gradients of B and C is kept apart and summed afterwards, so that results never differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from star.liv.kernels.native import side_by_side
from star.liv.kernels.selective_scan import finished
from star.liv.kernels.triton import on

CHANNELS = 32  # of a block: a row of float32 is one line of the cache
MOST_WARPS = 8
MOST_TIMES = 16  # of a tile backward: its steps are written out
TILE_NUMBERS = 16  # of a tile's tensors for each thread, backward; forward, which holds fewer of them, twice as many
TILES = 8  # of a chunk


@dataclass(frozen=True)
class Cut:
    """How a scan is cut: channels of a block, states (padded), tokens of a tile backward, warps."""

    channels: int
    states: int
    tile: int
    warps: int

    @classmethod
    def of(cls, channels: int, states: int) -> Cut:
        block, padded = min(CHANNELS, triton.next_power_of_2(channels)), triton.next_power_of_2(states)
        warps = min(MOST_WARPS, max(1, block * padded // 32))
        return cls(block, padded, min(MOST_TIMES, max(1, TILE_NUMBERS * warps * 32 // (block * padded))), warps)

    @property
    def chunk(self) -> int:
        """Tokens from one kept state to the next."""
        return TILES * self.tile


@triton.jit
def _rows(pointer, stride, times, real, places, inside):
    """[time, places] of a tensor of one sequence, zeros where it ends."""
    return tl.load(
        pointer + times[:, None] * stride + places[None, :], mask=real[:, None] & inside[None, :], other=0.0
    ).to(tl.float32)


@triton.jit
def _decays(delta, decay, keep, keep_time, times, real, KEEP: tl.constexpr):
    """k exp(Δ A) of a tile [time, states, channels]: 1 at times that are not real."""
    a = tl.exp(delta[:, None, :] * decay)
    if KEEP:
        a = a * tl.load(keep + times * keep_time, mask=real, other=1.0)[:, None, None]
    return a


@triton.jit
def _row(tile, index, wanted):
    """The row `wanted` of a tile, [1, states, channels], as a sum of its bits: unlike one of floats with zeros, that
    of integers is no work where the rows lie in one thread's registers."""
    bits = tl.where((index == wanted)[:, None, None], tile.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 0, keep_dims=True).to(tl.float32, bitcast=True)


@triton.jit
def _before(a, value, h, t, T: tl.constexpr):
    """h before each time of a tile, where h becomes a h + value at each; and the last h."""
    before = a
    for time in tl.static_range(T):
        before = tl.where((t == time)[:, None, None], h, before)
        h = _row(a, t, time) * h + _row(value, t, time)
    return before, h


@triton.jit
def _gradients(a, value, carry, t, T: tl.constexpr):
    """g = value + a g of the time that follows, whose a g is `carry` for the last; and the carry of the first."""
    g = value
    for passed in tl.static_range(T):
        now = _row(value, t, T - 1 - passed) + carry
        g = tl.where((t == T - 1 - passed)[:, None, None], now, g)
        carry = _row(a, t, T - 1 - passed) * now
    return g, carry


@triton.jit
def _forward(
    x, delta, decay, b, c, keep, initial, y, last, starts,
    x_batch, x_time, delta_batch, delta_time, b_batch, b_time, c_batch, c_time, keep_batch, keep_time,
    length, channels, states, blocks, chunks,
    KEEP: tl.constexpr, TRAINING: tl.constexpr,
    CHUNK: tl.constexpr, T: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    d = tl.program_id(0) % blocks * D + tl.arange(0, D)
    n, t = tl.arange(0, N), tl.arange(0, T)
    channel, state = d < channels, n < states
    x, delta, y = x + batch * x_batch, delta + batch * delta_batch, y + batch * length * channels
    b, c, keep = b + batch * b_batch, c + batch * c_batch, keep + batch * keep_batch
    places = n[None, :, None] * channels + d[None, None, :]
    inside = state[None, :, None] & channel[None, None, :]
    size = states * channels
    rates = tl.load(decay + places, mask=inside, other=0.0).to(tl.float32)
    h = tl.load(initial + batch * size + places, mask=inside, other=0.0).to(tl.float32)
    for start in range(0, length, T):
        if TRAINING and start % CHUNK == 0:
            tl.store(starts + (batch * chunks + start // CHUNK) * size + places, h, mask=inside)
        times, real = (start + t).to(tl.int64), start + t < length
        step = _rows(delta, delta_time, times, real, d, channel)
        into = step * _rows(x, x_time, times, real, d, channel)
        a = _decays(step, rates, keep, keep_time, times, real, KEEP)
        value = _rows(b, b_time, times, real, n, state)[:, :, None] * into[:, None, :]
        before, h = _before(a, value, h, t, T)
        out = tl.sum((a * before + value) * _rows(c, c_time, times, real, n, state)[:, :, None], 1)
        tl.store(y + times[:, None] * channels + d[None, :], out, mask=real[:, None] & channel[None, :])
    tl.store(last + batch * size + places, h, mask=inside)


@triton.jit
def _backward(
    x, delta, decay, b, c, keep, starts, d_y, d_last, d_x, d_delta, d_decay, d_b, d_c, d_initial,
    x_batch, x_time, delta_batch, delta_time, b_batch, b_time, c_batch, c_time, keep_batch, keep_time, y_batch, y_time,
    length, channels, states, blocks, chunks, batches,
    KEEP: tl.constexpr, TILES: tl.constexpr, T: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    block, batch = (tl.program_id(0) % blocks).to(tl.int64), (tl.program_id(0) // blocks).to(tl.int64)
    d = tl.program_id(0) % blocks * D + tl.arange(0, D)
    n, t, tiles = tl.arange(0, N), tl.arange(0, T), tl.arange(0, TILES)
    channel, state = d < channels, n < states
    x, delta, d_y = x + batch * x_batch, delta + batch * delta_batch, d_y + batch * y_batch
    b, c, keep = b + batch * b_batch, c + batch * c_batch, keep + batch * keep_batch
    d_x, d_delta = d_x + batch * length * channels, d_delta + batch * length * channels
    part = (block * batches + batch) * length * states
    d_b, d_c = d_b + part, d_c + part
    places = n[None, :, None] * channels + d[None, None, :]
    inside = state[None, :, None] & channel[None, None, :]
    size = states * channels
    rates = tl.load(decay + places, mask=inside, other=0.0).to(tl.float32)
    carry = tl.load(d_last + batch * size + places, mask=inside, other=0.0).to(
        tl.float32
    )  # a g of the time that follows
    d_rates = tl.zeros((1, N, D), tl.float32)
    for passed in range(chunks):
        chunk = chunks - 1 - passed
        first = chunk * TILES * T
        count = tl.cdiv(tl.minimum(length - first, TILES * T), T)
        h = tl.load(starts + (batch * chunks + chunk) * size + places, mask=inside, other=0.0)
        starting = tl.where((tiles == 0)[:, None, None], h, 0.0)  # h before each tile
        for tile in range(count - 1):
            times, real = (first + tile * T + t).to(tl.int64), first + tile * T + t < length
            step = _rows(delta, delta_time, times, real, d, channel)
            into = step * _rows(x, x_time, times, real, d, channel)
            a = _decays(step, rates, keep, keep_time, times, real, KEEP)
            value = _rows(b, b_time, times, real, n, state)[:, :, None] * into[:, None, :]
            _, h = _before(a, value, h, t, T)
            starting = tl.where((tiles == tile + 1)[:, None, None], h, starting)
        for done in range(count):
            tile = count - 1 - done
            times, real = (first + tile * T + t).to(tl.int64), first + tile * T + t < length
            step = _rows(delta, delta_time, times, real, d, channel)
            u = _rows(x, x_time, times, real, d, channel)
            into, b_t = step * u, _rows(b, b_time, times, real, n, state)
            a = _decays(step, rates, keep, keep_time, times, real, KEEP)
            value = b_t[:, :, None] * into[:, None, :]
            before, _ = _before(a, value, _row(starting, tiles, tile), t, T)
            g_y = _rows(d_y, y_time, times, real, d, channel)
            g = _rows(c, c_time, times, real, n, state)[:, :, None] * g_y[:, None, :]
            g, carry = _gradients(a, g, carry, t, T)
            before = a * before  # the part of h that comes from before
            exponent = g * before
            d_rates += tl.sum(exponent * step[:, None, :], 0, keep_dims=True)
            d_into = tl.sum(g * b_t[:, :, None], 1)
            at, within = times[:, None] * channels + d[None, :], real[:, None] & channel[None, :]
            tl.store(d_x + at, d_into * step, mask=within)
            tl.store(d_delta + at, d_into * u + tl.sum(exponent * rates, 1), mask=within)
            at, within = times[:, None] * states + n[None, :], real[:, None] & state[None, :]
            tl.store(d_b + at, tl.sum(g * into[:, None, :], 2), mask=within)
            tl.store(d_c + at, tl.sum((before + value) * g_y[:, None, :], 2), mask=within)
    tl.store(d_initial + batch * size + places, carry, mask=inside)
    tl.store(d_decay + batch * size + places, d_rates, mask=inside)


def selective_scan(
    x: Tensor,
    delta: Tensor,
    decay: Tensor,
    b: Tensor,
    c: Tensor,
    state: Tensor,
    keep: Tensor | None,
    skip: Tensor | None,
    gate: Tensor | None,
    raw: bool,
) -> tuple[Tensor, Tensor]:
    """Takes what the operator takes, in any mixture of precisions; y and the last state are float32."""
    step = functional.softplus(delta.float()) if raw else delta
    y, last = _SelectiveScan.apply(x, step, decay, b, c, state, keep)
    return finished(y, x, skip, gate), last


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor, decay: Tensor, b: Tensor, c: Tensor, state: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        x, delta, b, c = (side_by_side(tensor) for tensor in (x, delta, b, c))
        decay, state = decay.t().contiguous(), state.contiguous()
        keep = None if keep is None else keep.float().contiguous()
        batch, length, channels = x.shape
        cut = Cut.of(channels, decay.shape[0])
        blocks, chunks = triton.cdiv(channels, cut.channels), triton.cdiv(length, cut.chunk)
        training = any(ctx.needs_input_grad)
        y = x.new_empty(x.shape, dtype=torch.float32)
        last = torch.empty_like(state, dtype=torch.float32)
        starts = last.new_empty((batch, chunks, *last.shape[1:])) if training else last
        with on(x):
            _forward[(batch * blocks,)](
                x, delta, decay, b, c, x if keep is None else keep, state, y, last, starts,
                *_strides(x, delta, b, c), *_keep_strides(keep), length, channels, decay.shape[0], blocks, chunks,
                KEEP=keep is not None, TRAINING=training,
                CHUNK=cut.chunk, T=2 * cut.tile, N=cut.states, D=cut.channels, num_warps=cut.warps,
            )  # fmt: skip
        if training:
            ctx.save_for_backward(x, delta, decay, b, c, keep, starts)
            ctx.cut, ctx.state_dtype = cut, state.dtype
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        x, delta, decay, b, c, keep, starts = ctx.saved_tensors
        d_y, d_last, cut = side_by_side(d_y), d_last.contiguous(), ctx.cut
        batch, length, channels = x.shape
        blocks = triton.cdiv(channels, cut.channels)
        d_x, d_delta = x.new_empty(x.shape), delta.new_empty(delta.shape)
        d_b, d_c = (starts.new_empty((blocks, *b.shape)) for _ in range(2))
        d_decay, d_state = torch.empty_like(d_last), torch.empty_like(d_last)
        with on(x):
            _backward[(batch * blocks,)](
                x, delta, decay, b, c, x if keep is None else keep, starts, d_y, d_last,
                d_x, d_delta, d_decay, d_b, d_c, d_state,
                *_strides(x, delta, b, c), *_keep_strides(keep), d_y.stride(0), d_y.stride(1),
                length, channels, decay.shape[0], blocks, starts.shape[1], batch,
                KEEP=keep is not None, TILES=TILES, T=cut.tile, N=cut.states, D=cut.channels, num_warps=cut.warps,
            )  # fmt: skip
        own = (d_decay.sum(0).t(), d_b.sum(0), d_c.sum(0), d_state)
        kinds = (decay.dtype, b.dtype, c.dtype, ctx.state_dtype)
        return d_x, d_delta, *(gradient.to(kind) for gradient, kind in zip(own, kinds, strict=True)), None


def _strides(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(stride for tensor in tensors for stride in tensor.stride()[:2])


def _keep_strides(keep: Tensor | None) -> tuple[int, int]:
    """One row serves the whole batch where there is only one."""
    return (0, 0) if keep is None else (0 if keep.shape[0] == 1 else keep.stride(0), keep.stride(1))
