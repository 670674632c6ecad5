"""Causal depthwise convolutions, short (by shifts) and long (by FFT)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from star.liv.kernels import triton
from star.liv.kernels.choice import Kernel, Triton

BLOCK_ELEMENTS = 1 << 16  # worked on at a time on a CPU: what several operations in a row find in its cache


def short_convolution(x: Tensor, weight: Tensor, tail: Tensor | None = None) -> Tensor:
    """y_t = Σ_k weight[:, k] ⊙ x_{t-n+1+k}, n taps, the last one on the present token.

    x: [B, ℓ, D]; weight: [D or 1, n]; tail: [B, up to n-1, D], the inputs before x (zeros where there is none; a state
    for a single token holds fewer than n-1). Returns [B, ℓ, D].
    """
    return SHORT_CONVOLUTION(x, weight) if tail is None else _by_shifts(x, weight, tail)


def gated_short_convolution(x: Tensor, gate_in: Tensor, gate_out: Tensor, weight: Tensor) -> Tensor:
    """y = C ⊙ (K * (B ⊙ x)) from the start of sequences, K as in `short_convolution`; x, B, C: [B, ℓ, D]. Backward
    computes B ⊙ x and K * (B ⊙ x) again instead of keeping them."""
    return GATED_SHORT_CONVOLUTION(x, gate_in, gate_out, weight)


def _by_shifts(x: Tensor, weight: Tensor, tail: Tensor | None) -> Tensor:
    taps, length = weight.shape[1], x.shape[1]
    padded = x if tail is None else torch.cat([tail.to(x.dtype), x], dim=1)
    if (missing := taps - 1 + length - padded.shape[1]) > 0:
        padded = functional.pad(padded, (0, 0, missing, 0))
    y = x * weight[:, taps - 1]
    for k in range(taps - 1):
        y = torch.addcmul(y, padded[:, k : k + length], weight[:, k])
    return y


def _reference(x: Tensor, weight: Tensor) -> Tensor:
    """The equation in float64."""
    return _by_shifts(x.double(), weight.double(), None).to(_widest(x, weight))


def _gated_reference(x: Tensor, gate_in: Tensor, gate_out: Tensor, weight: Tensor) -> Tensor:
    y = gate_out.double() * _by_shifts(gate_in.double() * x.double(), weight.double(), None)
    return y.to(_widest(x, gate_in, gate_out, weight))


def _widest(first: Tensor, *others: Tensor) -> torch.dtype:
    dtype = first.dtype
    for other in others:
        dtype = torch.promote_types(dtype, other.dtype)
    return dtype


def _portable(x: Tensor, weight: Tensor) -> Tensor:
    if _blocked(weight, x):
        return _Short.apply(x, weight.expand(x.shape[2], -1), None, None)
    return _by_shifts(x, weight, None)


def _gated_portable(x: Tensor, gate_in: Tensor, gate_out: Tensor, weight: Tensor) -> Tensor:
    if _blocked(weight, x, gate_in, gate_out):
        return _Short.apply(x, weight.expand(x.shape[2], -1), gate_in, gate_out)
    return gate_out * _by_shifts(gate_in * x, weight, None)


def _blocked(weight: Tensor, *inputs: Tensor) -> bool:
    """Whether `_Short` serves: one dtype, one shape, and a CPU, where blocks that stay in the cache pay."""
    alike = all(one.dtype is weight.dtype and one.shape == inputs[0].shape for one in inputs)
    return alike and weight.device.type == "cpu" and inputs[0].numel() > 0


class _Short(torch.autograd.Function):
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


MOST_TAPS = 16  # that a Triton program writes out


def _triton_serves(x: Tensor, *others: Tensor) -> bool:
    *gates, weight = others
    fits = weight.shape[1] <= MOST_TAPS and all(gate.shape == x.shape for gate in gates)
    return fits and triton.readable(x, *others)


SHORT_CONVOLUTION = Kernel(
    "short convolution", _reference, _portable, triton=Triton("short_convolution", "short_convolution", _triton_serves)
)
GATED_SHORT_CONVOLUTION = Kernel(
    "gated short convolution",
    _gated_reference,
    _gated_portable,
    triton=Triton("short_convolution", "gated_short_convolution", _triton_serves),
)


class _Long(torch.autograd.Function):
    """Convolution by FFT over the last dimension; keeps the spectra, so that backward transforms only gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        ctx.length, ctx.taps = x.shape[1], kernel.shape[1]
        ctx.size = _fast_size(ctx.length + ctx.taps - 1)
        spectrum, response = _spectrum(x, ctx.size), torch.fft.rfft(kernel, n=ctx.size)
        ctx.save_for_backward(spectrum, response)
        y = torch.fft.irfft(spectrum * response, n=ctx.size)
        return y[..., : ctx.length].transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Convolutions with what is reversed in time, whose spectra are the conjugates."""
        spectrum, response = ctx.saved_tensors
        own = _spectrum(gradient, ctx.size)
        d_x = d_kernel = None
        if ctx.needs_input_grad[1]:
            product = (own * spectrum.conj()).sum(0)
            if response.shape[0] == 1:
                product = product.sum(0, keepdim=True)
            d_kernel = torch.fft.irfft(product, n=ctx.size)[:, : ctx.taps]
        if ctx.needs_input_grad[0]:
            d_x = torch.fft.irfft(own.mul_(response.conj()), n=ctx.size)[..., : ctx.length].transpose(1, 2)
        return d_x, d_kernel


def _spectrum(x: Tensor, size: int) -> Tensor:
    """x: [B, ℓ, D] → [B, D, size / 2 + 1]. Transposed and padded in one copy; a transform of strided x is slow."""
    padded = x.new_zeros(x.shape[0], x.shape[2], size)
    padded[..., : x.shape[1]] = x.transpose(1, 2)
    return torch.fft.rfft(padded)


def long_convolution(x: Tensor, kernel: Tensor) -> Tensor:
    """y_t = Σ_{s ≤ t} kernel[:, t-s] ⊙ x_s by FFT, in float32 or better.

    x: [B, ℓ, D]; kernel: [D or 1, n] with n ≤ ℓ or longer (the excess is unused). Returns [B, ℓ, D] in x's dtype.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        return _Long.apply(x.to(dtype), kernel[:, : x.shape[1]].to(dtype)).to(x.dtype)


def _fast_size(minimum: int) -> int:
    """The smallest 2^a, 3·2^a or 5·2^a that is at least `minimum`."""
    sizes = []
    for odd in (1, 3, 5):
        size = odd
        while size < minimum:
            size *= 2
        sizes.append(size)
    return min(sizes)
