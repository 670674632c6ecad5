"""The selective scan for GPUs. A program of one warp works through the time of one sequence and a block of channels, a
tile [time, states, channels] at a time. Tiles are cut so that a thread holds all times of its states and channels:
exponentials and products are made for a whole tile at once, and the recurrence, step by step, in registers. As a few
warps hide no wait for memory, what a tile reads is asked for one tile ahead.

Forward keeps h at the start of every chunk of tiles. Backward goes through chunks from the last to the first: once
forward for the h at the start of each tile, which a program writes to memory of its own (little enough for the cache,
for usual numbers of states), then backward, computing the rest of a tile again. What several blocks of channels add to
the gradients of B and C is kept apart and summed afterwards, so that results never differ.
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

CHANNELS = 16  # of a block
TILE_NUMBERS = 32  # of a tile's tensors for each thread, backward; forward, which holds fewer of them, twice as many
MOST_TIMES = 8  # of a tile backward: its steps are written out
CHUNK = 64  # tokens from one kept state to the next
SIZES = ["length", "blocks", "chunks", "batches"]  # one compilation serves all of them
LOG2_E, LN_2 = tl.constexpr(1.4426950408889634), tl.constexpr(0.6931471805599453)


@dataclass(frozen=True)
class Cut:
    """How a scan is cut: channels of a block, states (padded), tokens of a tile backward."""

    channels: int
    states: int
    tile: int

    @classmethod
    def of(cls, channels: int, states: int) -> Cut:
        block, padded = min(CHANNELS, triton.next_power_of_2(channels)), triton.next_power_of_2(states)
        return cls(block, padded, min(MOST_TIMES, max(1, TILE_NUMBERS * 32 // (block * padded))))


@triton.jit
def _rows(pointer, stride, times, length, places, inside):
    """[time, places] of a tensor of one sequence, zeros where it ends."""
    return tl.load(
        pointer + times[:, None] * stride + places[None, :], mask=(times < length)[:, None] & inside[None, :], other=0.0
    )


@triton.jit
def _decays(delta, rates, keep, keep_time, times, length, KEEP: tl.constexpr):
    """k exp(Δ A) of a tile [time, states, channels], for rates A log₂ e: 1 at times that are not real."""
    a = tl.exp2(delta[:, None, :] * rates)
    if KEEP:
        a = a * tl.load(keep + times * keep_time, mask=times < length, other=1.0)[:, None, None]
    return a


@triton.jit
def _row(tile, index, wanted):
    """The row `wanted` of a tile, [1, states, channels], as a sum of its bits: unlike one of floats with zeros, that
    of integers is no work where the rows lie in one thread's registers."""
    bits = tl.where((index == wanted)[:, None, None], tile.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 0, keep_dims=True).to(tl.float32, bitcast=True)


@triton.jit
def _states(a, value, h, t, T: tl.constexpr, BEFORE: tl.constexpr):
    """h before, or after, each time of a tile, where h becomes a h + value at each; and the last h."""
    kept = a
    for time in tl.static_range(T):
        following = _row(a, t, time) * h + _row(value, t, time)
        kept = tl.where((t == time)[:, None, None], h if BEFORE else following, kept)
        h = following
    return kept, h


@triton.jit
def _gradients(a, value, carry, t, T: tl.constexpr):
    """g = value + a g of the time that follows, whose a g is `carry` for the last; and the carry of the first."""
    g = value
    for passed in tl.static_range(T):
        now = _row(value, t, T - 1 - passed) + carry
        g = tl.where((t == T - 1 - passed)[:, None, None], now, g)
        carry = _row(a, t, T - 1 - passed) * now
    return g, carry


@triton.jit(do_not_specialize=SIZES)
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
    rates = LOG2_E * tl.load(decay + places, mask=inside, other=0.0).to(tl.float32)
    h = tl.load(initial + batch * size + places, mask=inside, other=0.0).to(tl.float32)
    times = t.to(tl.int64)
    next_step, next_x = _rows(delta, delta_time, times, length, d, channel), _rows(x, x_time, times, length, d, channel)
    next_b, next_c = _rows(b, b_time, times, length, n, state), _rows(c, c_time, times, length, n, state)
    for start in range(0, length, T):
        if TRAINING and start % CHUNK == 0:
            tl.store(starts + (batch * chunks + start // CHUNK) * size + places, h, mask=inside)
        times = (start + t).to(tl.int64)
        step, into = next_step.to(tl.float32), next_step.to(tl.float32) * next_x.to(tl.float32)
        b_t, c_t = next_b.to(tl.float32), next_c.to(tl.float32)
        next_step = _rows(delta, delta_time, times + T, length, d, channel)
        next_x = _rows(x, x_time, times + T, length, d, channel)
        next_b = _rows(b, b_time, times + T, length, n, state)
        next_c = _rows(c, c_time, times + T, length, n, state)
        a = _decays(step, rates, keep, keep_time, times, length, KEEP)
        after, h = _states(a, b_t[:, :, None] * into[:, None, :], h, t, T, False)
        out = tl.sum(after * c_t[:, :, None], 1)
        tl.store(y + times[:, None] * channels + d[None, :], out, mask=(times < length)[:, None] & channel[None, :])
    tl.store(last + batch * size + places, h, mask=inside)


@triton.jit(do_not_specialize=SIZES)
def _backward(
    x, delta, decay, b, c, keep, starts, d_y, d_last, d_x, d_delta, d_decay, d_b, d_c, d_initial, scratch,
    x_batch, x_time, delta_batch, delta_time, b_batch, b_time, c_batch, c_time, keep_batch, keep_time, y_batch, y_time,
    length, channels, states, blocks, chunks, batches,
    KEEP: tl.constexpr, CHUNK: tl.constexpr, T: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    block, batch = (tl.program_id(0) % blocks).to(tl.int64), (tl.program_id(0) // blocks).to(tl.int64)
    d = tl.program_id(0) % blocks * D + tl.arange(0, D)
    n, t = tl.arange(0, N), tl.arange(0, T)
    channel, state = d < channels, n < states
    x, delta, d_y = x + batch * x_batch, delta + batch * delta_batch, d_y + batch * y_batch
    b, c, keep = b + batch * b_batch, c + batch * c_batch, keep + batch * keep_batch
    d_x, d_delta = d_x + batch * length * channels, d_delta + batch * length * channels
    part = (block * batches + batch) * length * states
    d_b, d_c = d_b + part, d_c + part
    places = n[None, :, None] * channels + d[None, None, :]
    inside = state[None, :, None] & channel[None, None, :]
    size = states * channels
    # h before each tile of a chunk
    tiles = scratch + tl.program_id(0).to(tl.int64) * (CHUNK // T * N * D)
    tiles += n[None, :, None] * D + tl.arange(0, D)[None, None, :]
    rates = LOG2_E * tl.load(decay + places, mask=inside, other=0.0).to(tl.float32)
    # a g of the time that follows
    carry = tl.load(d_last + batch * size + places, mask=inside, other=0.0).to(tl.float32)
    d_rates = tl.zeros((1, N, D), tl.float32)
    for passed in range(chunks):
        chunk = chunks - 1 - passed
        first = chunk * CHUNK
        count = tl.cdiv(tl.minimum(length - first, CHUNK), T)
        h = tl.load(starts + (batch * chunks + chunk) * size + places, mask=inside, other=0.0)
        times = (first + t).to(tl.int64)
        next_step = _rows(delta, delta_time, times, length, d, channel)
        next_x = _rows(x, x_time, times, length, d, channel)
        next_b = _rows(b, b_time, times, length, n, state)
        for tile in range(count):
            tl.store(tiles + tile * (N * D), h)
            times = (first + tile * T + t).to(tl.int64)
            step, into = next_step.to(tl.float32), next_step.to(tl.float32) * next_x.to(tl.float32)
            b_t = next_b.to(tl.float32)
            next_step = _rows(delta, delta_time, times + T, length, d, channel)
            next_x = _rows(x, x_time, times + T, length, d, channel)
            next_b = _rows(b, b_time, times + T, length, n, state)
            a = _decays(step, rates, keep, keep_time, times, length, KEEP)
            _, h = _states(a, b_t[:, :, None] * into[:, None, :], h, t, T, False)
        tl.debug_barrier()  # what one thread has written, another may read
        for done in range(count):
            tile = count - 1 - done
            times = (first + tile * T + t).to(tl.int64)
            step = _rows(delta, delta_time, times, length, d, channel).to(tl.float32)
            u = _rows(x, x_time, times, length, d, channel).to(tl.float32)
            g_y = _rows(d_y, y_time, times, length, d, channel).to(tl.float32)
            b_t = _rows(b, b_time, times, length, n, state).to(tl.float32)
            c_t = _rows(c, c_time, times, length, n, state).to(tl.float32)
            into = step * u
            a = _decays(step, rates, keep, keep_time, times, length, KEEP)
            value = b_t[:, :, None] * into[:, None, :]
            before, _ = _states(a, value, tl.load(tiles + tile * (N * D)), t, T, True)
            g, carry = _gradients(a, c_t[:, :, None] * g_y[:, None, :], carry, t, T)
            before = a * before  # the part of h that comes from before
            exponent = g * before
            d_rates += tl.sum(exponent * step[:, None, :], 0, keep_dims=True)
            d_into = tl.sum(g * b_t[:, :, None], 1)
            real = (times < length)[:, None]
            at, within = times[:, None] * channels + d[None, :], real & channel[None, :]
            tl.store(d_x + at, d_into * step, mask=within)
            tl.store(d_delta + at, d_into * u + LN_2 * tl.sum(exponent * rates, 1), mask=within)
            at, within = times[:, None] * states + n[None, :], real & state[None, :]
            tl.store(d_b + at, tl.sum(g * into[:, None, :], 2), mask=within)
            tl.store(d_c + at, tl.sum((before + value) * g_y[:, None, :], 2), mask=within)
        tl.debug_barrier()
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
        blocks, chunks = triton.cdiv(channels, cut.channels), triton.cdiv(length, CHUNK)
        training = any(ctx.needs_input_grad)
        y = x.new_empty(x.shape, dtype=torch.float32)
        last = torch.empty_like(state, dtype=torch.float32)
        starts = last.new_empty((batch, chunks, *last.shape[1:])) if training else last
        with on(x):
            _forward[(batch * blocks,)](
                x, delta, decay, b, c, x if keep is None else keep, state, y, last, starts,
                *_strides(x, delta, b, c), *_keep_strides(keep), length, channels, decay.shape[0], blocks, chunks,
                KEEP=keep is not None, TRAINING=training,
                CHUNK=CHUNK, T=2 * cut.tile, N=cut.states, D=cut.channels, num_warps=1,
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
        scratch = starts.new_empty(batch * blocks * (CHUNK // cut.tile) * cut.states * cut.channels)
        with on(x):
            _backward[(batch * blocks,)](
                x, delta, decay, b, c, x if keep is None else keep, starts, d_y, d_last,
                d_x, d_delta, d_decay, d_b, d_c, d_state, scratch,
                *_strides(x, delta, b, c), *_keep_strides(keep), d_y.stride(0), d_y.stride(1),
                length, channels, decay.shape[0], blocks, starts.shape[1], batch,
                KEEP=keep is not None, CHUNK=CHUNK, T=cut.tile, N=cut.states, D=cut.channels, num_warps=1,
            )  # fmt: skip
        own = (d_decay.sum(0).t(), d_b.sum(0), d_c.sum(0), d_state)
        kinds = (decay.dtype, b.dtype, c.dtype, ctx.state_dtype)
        return d_x, d_delta, *(gradient.to(kind) for gradient, kind in zip(own, kinds, strict=True)), None


def _strides(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(stride for tensor in tensors for stride in tensor.stride()[:2])


def _keep_strides(keep: Tensor | None) -> tuple[int, int]:
    """One row serves the whole batch where there is only one."""
    return (0, 0) if keep is None else (0 if keep.shape[0] == 1 else keep.stride(0), keep.stride(1))
