"""The root mean square norm of a residual stream (Zhang & Sennrich 2019), with the addition before it:

    s = x + u,    y = w ⊙ s / √(mean(s²) + ε)

With r = 1 / √(mean(s²) + ε): ∂L/∂s = r (w ⊙ ∂L/∂y - r² s mean(s ⊙ w ⊙ ∂L/∂y)), beside what reaches s itself.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from star.liv.kernels import native
from star.liv.kernels.choice import Kernel, Native

FEWEST = 1 << 12  # elements; below, calls cost more than memory, and PyTorch's own norm has the fewest
BLOCK_ELEMENTS = 1 << 16  # worked on at a time on a CPU: what several operations in a row find in its cache


def add_rms_norm(
    x: Tensor, update: Tensor | None, weight: Tensor, epsilon: float, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """x + update (x itself where that is None) and its norm in `dtype`, or x's; all [B, ℓ, d], weight: [d]."""
    return RMS_NORM(x, update, weight, epsilon, dtype)


def _reference(
    x: Tensor, update: Tensor | None, weight: Tensor, epsilon: float, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """The equation in float64."""
    total = x.double() if update is None else x.double() + update.double()
    y = weight.double() * total / (total.square().mean(-1, keepdim=True) + epsilon).sqrt()
    return (x if update is None else total.to(x.dtype)), y.to(dtype or x.dtype)


class _Portable(torch.autograd.Function):
    """Block by block of rows [n, d]; keeps 1 / rms of each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        y, width = torch.empty_like(x), x.shape[1]
        inverse = x.new_empty(x.shape[0], 1)
        for rows in _blocks(x):
            part, out = x[rows], y[rows]
            squares = torch.mul(part, part, out=out).sum(1, keepdim=True)
            torch.rsqrt(squares.div_(width).add_(epsilon), out=inverse[rows])
            torch.mul(part, inverse[rows], out=out).mul_(weight)
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, inverse = ctx.saved_tensors
        d_x, d_weight = torch.empty_like(x), torch.zeros_like(weight)
        for rows in _blocks(x):
            part, factor, out = x[rows], inverse[rows], d_x[rows]
            product = gradient[rows] * part
            d_weight += torch.mv(product.t(), factor.squeeze(1))
            mean = torch.mv(product, weight).unsqueeze(1).mul_(factor.square()).div_(x.shape[1])
            torch.mul(gradient[rows], weight, out=out)
            out.addcmul_(part, mean, value=-1).mul_(factor)
        return d_x, d_weight, None


def _blocks(x: Tensor) -> list[slice]:
    step = max(1, BLOCK_ELEMENTS // x.shape[1]) if x.device.type == "cpu" else max(1, x.shape[0])
    return [slice(start, start + step) for start in range(0, x.shape[0], step)]


def _portable(
    x: Tensor, update: Tensor | None, weight: Tensor, epsilon: float, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    total = x if update is None else x + update
    precise = total.dtype is weight.dtype and total.dtype in (torch.float32, torch.float64)  # to be summed in blocks
    if total.numel() >= FEWEST and total.device.type == "cpu" and precise and total.is_contiguous():
        y = _Portable.apply(total.flatten(0, -2), weight, epsilon).view(total.shape)
    else:
        y = functional.rms_norm(total, weight.shape, weight, epsilon)
    return total, y if dtype is None else y.to(dtype)


class _Sizes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("rows", "width", "threads", "half_update", "half_y"))


class _Forward(ctypes.Structure):
    _fields_ = (
        ("size", _Sizes),
        *((name, ctypes.c_void_p) for name in ("x", "update", "weight", "total", "y", "inverse")),
        ("epsilon", ctypes.c_float),
    )


class _Backward(ctypes.Structure):
    _fields_ = (
        ("size", _Sizes),
        *((name, ctypes.c_void_p) for name in ("x", "weight", "inverse", "d_y", "d_total", "d_x", "d_weight")),
    )


SOURCE = "rms_norm.cpp"


class _Native(torch.autograd.Function):
    """The norm alone where there is no update, since the sum is then an input; else the sum and its norm."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        update: Tensor | None,
        weight: Tensor,
        epsilon: float,
        dtype: torch.dtype | None = None,
    ) -> Any:
        x, weight = x.contiguous(), weight.contiguous()
        update = None if update is None else update.contiguous()
        total = x if update is None else torch.empty_like(x)
        y, inverse = torch.empty_like(x, dtype=dtype), x.new_empty(x.shape[:-1])
        ctx.halves = update is not None and update.dtype is native.HALF, y.dtype is native.HALF
        record = _Forward(_sizes(x, *ctx.halves), *map(native.address, (x, update, weight, total, y, inverse)), epsilon)
        native.library(SOURCE).call("rms_norm_forward", record)
        ctx.save_for_backward(total, weight, inverse)
        ctx.set_materialize_grads(False)
        ctx.added = update is not None
        return (total, y) if ctx.added else y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        total, weight, inverse = ctx.saved_tensors
        d_total, d_y = gradients if ctx.added else (None, *gradients)
        if d_y is None:
            return d_total, d_total, None, None, None
        d_total = None if d_total is None else d_total.contiguous()
        library, size, d_x = native.library(SOURCE), _sizes(total, *ctx.halves), torch.empty_like(total)
        d_weight = total.new_zeros(library.number("rms_norm_tasks", size), weight.shape[0])
        tensors = (total, weight, inverse, d_y.contiguous(), d_total, d_x, d_weight)
        library.call("rms_norm_backward", _Backward(size, *map(native.address, tensors)))
        return d_x, d_x if ctx.added else None, d_weight.sum(0), None, None


def _sizes(x: Tensor, half_update: bool, half_y: bool) -> _Sizes:
    return _Sizes(x.numel() // x.shape[-1], x.shape[-1], torch.get_num_threads(), half_update, half_y)


def _native(
    x: Tensor, update: Tensor | None, weight: Tensor, epsilon: float, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    found = _Native.apply(x, update, weight, epsilon, dtype)
    return (x, found) if update is None else found


def _serves(x: Tensor, update: Tensor | None, weight: Tensor, epsilon: float, dtype: torch.dtype | None = None) -> bool:
    if update is not None and native.readable(update, native.HALF):
        fit = readable(x, None, weight) and update.shape == x.shape
    else:
        fit = readable(x, update, weight)
    return fit and x.numel() >= FEWEST and dtype in (None, torch.float32, native.HALF)


def readable(x: Tensor, update: Tensor | None, weight: Tensor) -> bool:
    """Whether C++ may read these as rows of floats, what is added to them, and the weight of each column."""
    fit = weight.shape == x.shape[-1:] and (update is None or update.shape == x.shape)
    return fit and all(tensor is None or native.readable(tensor) for tensor in (x, update, weight))


RMS_NORM = Kernel("RMS norm", _reference, _portable, Native(SOURCE, _native, _serves))
