"""Short causal depthwise convolutions, alone and between two gates:

    y_t = C_t ⊙ Σ_k K_k ⊙ u_{t-n+1+k},    u = B ⊙ x

With v = ∂L/∂y ⊙ C: ∂L/∂u_t = Σ_k K_k ⊙ v_{t+n-1-k} and ∂L/∂K_k = Σ_t v_t ⊙ u_{t-n+1+k}.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from star.liv.kernels import native, triton
from star.liv.kernels.choice import Kernel, Native, Triton
from star.liv.kernels.rows import Rows, rows_of

BLOCK_ELEMENTS = 1 << 16  # worked on at a time on a CPU: what several operations in a row find in its cache


def short_convolution(x: Tensor, weight: Tensor, tail: Tensor | None = None) -> Tensor:
    """y_t = Σ_k weight[:, k] ⊙ x_{t-n+1+k}, n taps, the last one on the present token.

    x: [B, ℓ, D]; weight: [D or 1, n]; tail: [B, up to n-1, D], the inputs before x (zeros where there is none; a state
    for a single token holds fewer than n-1). Returns [B, ℓ, D].
    """
    return SHORT_CONVOLUTION(x, weight, tail)


def gated_short_convolution(x: Tensor, gate_in: Tensor, gate_out: Tensor, weight: Tensor) -> Tensor:
    """y = C ⊙ (K * (B ⊙ x)) from the start of sequences, K as in `short_convolution`; x, B, C: [B, ℓ, D]. Backward
    computes B ⊙ x and K * (B ⊙ x) again instead of keeping them."""
    return GATED_SHORT_CONVOLUTION(x, gate_in, gate_out, weight)


def _reference(x: Tensor, weight: Tensor, tail: Tensor | None) -> Tensor:
    """The sum, tap by tap, in float64."""
    known = x.double() if tail is None else torch.cat([tail, x], dim=1).double()
    y = torch.zeros_like(x, dtype=torch.float64)
    for lag in range(weight.shape[1]):
        end = max(0, known.shape[1] - lag)
        seen = known[:, max(0, end - x.shape[1]) : end]
        y = y + functional.pad(seen, (0, 0, x.shape[1] - seen.shape[1], 0)) * weight[:, -1 - lag].double()
    return y.to(x.dtype)


def _gated_reference(x: Tensor, gate_in: Tensor, gate_out: Tensor, weight: Tensor) -> Tensor:
    y = gate_out.double() * _reference(gate_in.double() * x.double(), weight.double(), None)
    return y.to(torch.promote_types(gate_out.dtype, x.dtype))


def _portable(x: Tensor, weight: Tensor, tail: Tensor | None) -> Tensor:
    taps, length = weight.shape[1], x.shape[1]
    if tail is None and _blocked(weight, x):
        return _Blocks.apply(x, weight.expand(x.shape[2], -1), None, None)
    padded = x if tail is None else torch.cat([tail.to(x.dtype), x], dim=1)
    if (missing := taps - 1 + length - padded.shape[1]) > 0:
        padded = functional.pad(padded, (0, 0, missing, 0))
    y = x * weight[:, taps - 1]
    for k in range(taps - 1):
        y = torch.addcmul(y, padded[:, k : k + length], weight[:, k])
    return y


def _gated_portable(x: Tensor, gate_in: Tensor, gate_out: Tensor, weight: Tensor) -> Tensor:
    if _blocked(weight, x, gate_in, gate_out):
        return _Blocks.apply(x, weight.expand(x.shape[2], -1), gate_in, gate_out)
    return gate_out * _portable(gate_in * x, weight, None)


def _blocked(weight: Tensor, *inputs: Tensor) -> bool:
    """Whether `_Blocks` serves: one dtype, one shape, and a CPU, where blocks that stay in the cache pay."""
    alike = all(one.dtype is weight.dtype and one.shape == inputs[0].shape for one in inputs)
    return alike and weight.device.type == "cpu" and inputs[0].numel() > 0


class _Blocks(torch.autograd.Function):
    """C ⊙ (K * (B ⊙ x)) with or without gates, block by block."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, gate_in: Tensor | None, gate_out: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, gate_in, gate_out)
        output, taps = torch.empty_like(x), weight.t().contiguous()
        for rows, start, end in _blocks(x):
            y = output[rows, start:end]
            _taps_of(x, gate_in, taps, rows, start, end, y)
            if gate_out is not None:
                y *= gate_out[rows, start:end]
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, gate_in, gate_out = ctx.saved_tensors
        taps = weight.t().contiguous()
        count, length = taps.shape[0], x.shape[1]
        d_taps, d_x = torch.zeros_like(taps), torch.empty_like(x)
        d_in, d_out = (None if gate is None else torch.empty_like(gate) for gate in (gate_in, gate_out))
        for rows, start, end in _blocks(x):
            size = end - start
            after = slice(start, min(end + count - 1, length))
            d_y = gradient[rows, after] if gate_out is None else gradient[rows, after] * gate_out[rows, after]
            if d_out is not None:
                y = d_out[rows, start:end]
                u, skip = _taps_of(x, gate_in, taps, rows, start, end, y)
                y *= gradient[rows, start:end]
            else:
                u, skip = _inputs(x, gate_in, count, rows, start, end)
            d_u = d_x[rows, start:end] if gate_in is None else torch.empty_like(d_y[:, :size])
            torch.mul(d_y[:, :size], taps[-1], out=d_u)
            d_taps[-1] += (d_y[:, :size] * u[:, skip:]).sum((0, 1))
            for lag in range(1, count):
                later = d_y[:, lag : lag + size]
                d_u[:, : later.shape[1]].addcmul_(later, taps[-1 - lag])
                first = max(0, lag - skip)  # of this block's outputs that see so far back
                if first < size:
                    seen = u[:, skip + first - lag : skip + size - lag]
                    d_taps[-1 - lag] += (d_y[:, first:size] * seen).sum((0, 1))
            if gate_in is not None and d_in is not None:
                torch.mul(d_u, gate_in[rows, start:end], out=d_x[rows, start:end])
                torch.mul(d_u, x[rows, start:end], out=d_in[rows, start:end])
        return d_x, d_taps.t(), d_in, d_out


def _blocks(x: Tensor) -> Iterator[tuple[slice, int, int]]:
    """Sequences and times (from, to) of blocks of x [B, ℓ, D]: several whole sequences, or a part of one."""
    batch, length, channels = x.shape
    step = min(length, max(1, BLOCK_ELEMENTS // channels))
    rows = max(1, BLOCK_ELEMENTS // (length * channels))
    for row in range(0, batch, rows):
        for start in range(0, length, step):
            yield slice(row, row + rows), start, min(start + step, length)


def _inputs(x: Tensor, gate: Tensor | None, count: int, rows: slice, start: int, end: int) -> tuple[Tensor, int]:
    """u = B ⊙ x for a block and up to count - 1 tokens before it, and how many these are."""
    skip = min(start, count - 1)
    u = x[rows, start - skip : end]
    return (u if gate is None else u * gate[rows, start - skip : end]), skip


def _taps_of(
    x: Tensor, gate: Tensor | None, taps: Tensor, rows: slice, start: int, end: int, y: Tensor
) -> tuple[Tensor, int]:
    """Writes K * u of a block into y; returns what `_inputs` does. taps: [n, D]."""
    u, skip = _inputs(x, gate, taps.shape[0], rows, start, end)
    size = end - start
    torch.mul(u[:, skip:], taps[-1], out=y)
    for lag in range(1, taps.shape[0]):
        first = max(0, lag - skip)
        if first < size:
            y[:, first:].addcmul_(u[:, skip + first - lag : skip + size - lag], taps[-1 - lag])
    return u, skip


class _Sizes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("batch", "length", "channels", "taps", "threads"))


class _Forward(ctypes.Structure):
    _fields_ = (
        ("size", _Sizes),
        *((name, Rows) for name in ("x", "gate_in", "gate_out", "y")),
        ("taps", ctypes.c_void_p),
    )


class _Backward(ctypes.Structure):
    _fields_ = (
        ("size", _Sizes),
        *((name, Rows) for name in ("x", "gate_in", "gate_out", "d_y", "d_x", "d_in", "d_out")),
        *((name, ctypes.c_void_p) for name in ("taps", "d_taps")),
    )


SOURCE = "convolution.cpp"


class _Native(torch.autograd.Function):
    """C ⊙ (K * (B ⊙ x)) with or without gates."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, gate_in: Tensor | None, gate_out: Tensor | None) -> Tensor:
        x = native.side_by_side(x)
        gate_in, gate_out = (gate if gate is None else native.side_by_side(gate) for gate in (gate_in, gate_out))
        y, taps = x.new_empty(x.shape), weight.t().contiguous()
        record = _Forward(_sizes(x, taps), *map(rows_of, (x, gate_in, gate_out, y)), taps.data_ptr())
        native.library(SOURCE).call("short_convolution_forward", record)
        ctx.save_for_backward(x, taps, gate_in, gate_out)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        x, taps, gate_in, gate_out = ctx.saved_tensors
        d_y, d_taps = native.side_by_side(d_y), x.new_empty(x.shape[0], *taps.shape)
        d_x, d_in, d_out = (None if one is None else x.new_empty(x.shape) for one in (x, gate_in, gate_out))
        rows = map(rows_of, (x, gate_in, gate_out, d_y, d_x, d_in, d_out))
        record = _Backward(_sizes(x, taps), *rows, taps.data_ptr(), d_taps.data_ptr())
        native.library(SOURCE).call("short_convolution_backward", record)
        return d_x, d_taps.sum(0).t(), d_in, d_out


def _sizes(x: Tensor, taps: Tensor) -> _Sizes:
    return _Sizes(*x.shape, taps.shape[0], torch.get_num_threads())


def _native(x: Tensor, weight: Tensor, tail: Tensor | None) -> Tensor:
    return _Native.apply(x, weight.expand(x.shape[2], -1), None, None)


def _serves(x: Tensor, weight: Tensor, tail: Tensor | None) -> bool:
    fit = tail is None and weight.shape[0] in (1, x.shape[2])
    return fit and native.readable(x) and native.readable(weight)


def _gated_native(x: Tensor, gate_in: Tensor, gate_out: Tensor, weight: Tensor) -> Tensor:
    return _Native.apply(x, weight.expand(x.shape[2], -1), gate_in, gate_out)


def _serves_gated(x: Tensor, gate_in: Tensor, gate_out: Tensor, weight: Tensor) -> bool:
    return _blocked(weight, x, gate_in, gate_out) and weight.shape[0] in (1, x.shape[2]) and native.readable(x)


MOST_TAPS = 16  # that a Triton program writes out


def _triton_serves(x: Tensor, weight: Tensor, tail: Tensor | None) -> bool:
    return tail is None and weight.shape[1] <= MOST_TAPS and triton.readable(x, weight)


def _triton_serves_gated(x: Tensor, gate_in: Tensor, gate_out: Tensor, weight: Tensor) -> bool:
    fits = weight.shape[1] <= MOST_TAPS and x.shape == gate_in.shape == gate_out.shape
    return fits and triton.readable(x, gate_in, gate_out, weight)


SHORT_CONVOLUTION = Kernel(
    "short convolution",
    _reference,
    _portable,
    Native(SOURCE, _native, _serves),
    Triton("short_convolution", "short_convolution", _triton_serves),
)
GATED_SHORT_CONVOLUTION = Kernel(
    "gated short convolution",
    _gated_reference,
    _gated_portable,
    Native(SOURCE, _gated_native, _serves_gated),
    Triton("short_convolution", "gated_short_convolution", _triton_serves_gated),
)
