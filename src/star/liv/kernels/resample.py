"""Reading a sequence at real-valued distances: gather and linear interpolation (the Deformer)."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from star.liv.kernels import native, triton
from star.liv.kernels.choice import Kernel, Native, Triton
from star.liv.kernels.rows import Rows, rows_of


def resample(values: Tensor, shift: Tensor) -> Tensor:
    """y_t = (1 - f) v_{t-n} + f v_{t-n-1} with n = ⌊s_t⌋ and f = s_t - n, channel by channel: v read s_t tokens ago.

    values: [B, n + ℓ, D], of which the last ℓ are the present chunk; shift: [B, ℓ, D], from 0 to n, in float32 or
    better, so that positions are exact whatever the values' dtype is. Nothing ahead of t is ever read. Returns
    [B, ℓ, D].
    """
    return RESAMPLE(values, shift)


def _reference(values: Tensor, shift: Tensor) -> Tensor:
    """The equation in float64."""
    double, exact = values.double(), shift.double()
    lead = values.shape[1] - shift.shape[1]
    lag = exact.detach().floor().clamp(max=lead - 1)
    place = torch.arange(lead, values.shape[1], device=values.device).view(1, -1, 1) - lag.long()
    near, far = double.gather(1, place), double.gather(1, place - 1)
    fraction = exact - lag
    return ((1 - fraction) * near + fraction * far).to(values.dtype)


class _Portable(torch.autograd.Function):
    """Saves the places as int32 and the two values that each output lies between.

    Values are read and their gradients added up by place in the flattened values: a single index for each, where
    `gather` and `scatter_add` along a dimension compute one and need it in int64.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, shift: Tensor) -> Tensor:
        (batch, size, channels), length = values.shape, shift.shape[1]
        lag = shift.floor().clamp_(max=size - length - 1)
        fraction = (shift - lag).to(values.dtype)
        # Place of v[b, t, d]: (b · size + t) · channels + d. A lag that is not a number must not read elsewhere.
        index = torch.int32 if values.numel() < 2**31 else torch.int64
        place = torch.arange(batch * size * channels, dtype=index, device=values.device)
        back = lag.to(index).mul_(channels).clamp_(0, (size - length - 1) * channels)
        place = (place.view(values.shape)[:, size - length :] - back).reshape(-1)
        flat = values.reshape(-1)
        near = flat.index_select(0, place).view(shift.shape)
        far = flat.index_select(0, place - channels).view(shift.shape)
        output = torch.lerp(near, far, fraction)
        ctx.save_for_backward(place, fraction, far.sub_(near))
        ctx.values_shape, ctx.shift_dtype = values.shape, shift.dtype
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        place, fraction, slope = ctx.saved_tensors
        d_far = gradient * fraction
        # A value may be read by many positions, so their gradients are added up in float32 or better.
        d_near = (gradient - d_far).to(torch.promote_types(gradient.dtype, torch.float32))
        d_values = d_near.new_zeros(ctx.values_shape)
        d_values.view(-1).index_add_(0, place, d_near.reshape(-1))
        d_values.view(-1).index_add_(0, place - ctx.values_shape[2], d_far.to(d_near.dtype).reshape(-1))
        return d_values.to(gradient.dtype), (gradient * slope).to(ctx.shift_dtype)


class _Sizes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("batch", "length", "channels", "lead", "threads"))


class _Forward(ctypes.Structure):
    _fields_ = (("size", _Sizes), *((name, Rows) for name in ("values", "shift", "y")))


class _Backward(ctypes.Structure):
    _fields_ = (("size", _Sizes), *((name, Rows) for name in ("values", "shift", "d_y", "d_values", "d_shift")))


SOURCE = "resample.cpp"


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, shift: Tensor) -> Tensor:
        values, shift = native.side_by_side(values), native.side_by_side(shift)
        ctx.save_for_backward(values, shift)
        y = shift.new_empty(shift.shape)
        record = _Forward(_sizes(values, shift), *map(rows_of, (values, shift, y)))
        native.library(SOURCE).call("resample_forward", record)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, Tensor]:
        values, shift = ctx.saved_tensors
        d_y, d_values, d_shift = native.side_by_side(d_y), values.new_empty(values.shape), shift.new_empty(shift.shape)
        record = _Backward(_sizes(values, shift), *map(rows_of, (values, shift, d_y, d_values, d_shift)))
        native.library(SOURCE).call("resample_backward", record)
        return d_values, d_shift


def _sizes(values: Tensor, shift: Tensor) -> _Sizes:
    return _Sizes(*shift.shape, values.shape[1] - shift.shape[1], torch.get_num_threads())


def _serves(values: Tensor, shift: Tensor) -> bool:
    fit = values.shape[::2] == shift.shape[::2] and values.shape[1] > shift.shape[1]
    return fit and native.readable(values) and native.readable(shift)


LONGEST_WINDOW = 128  # tokens; backward, the work of the Triton version grows with the window


def _triton_serves(values: Tensor, shift: Tensor) -> bool:
    window = values.shape[1] - shift.shape[1]
    return 1 <= window <= LONGEST_WINDOW and shift.dtype is torch.float32 and triton.readable(values, shift)


RESAMPLE = Kernel(
    "resampling",
    _reference,
    _Portable.apply,
    Native(SOURCE, _Native.apply, _serves),
    Triton("resample", "resample", _triton_serves),
)
