"""Reading a sequence at real-valued distances: gather and linear interpolation (the Deformer)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Resample(torch.autograd.Function):
    """Saves positions as int32 and the two values that each output lies between."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, shift: Tensor) -> Tensor:
        lead = values.shape[1] - shift.shape[1]
        lag = shift.floor().clamp_(max=lead - 1)
        fraction = (shift - lag).to(values.dtype)
        position = torch.arange(lead, values.shape[1], device=values.device).view(1, -1, 1) - lag.long()
        near = values.gather(1, position)
        far = values.gather(1, position - 1)
        ctx.save_for_backward(position.int(), fraction, far - near)
        ctx.length, ctx.shift_dtype = values.shape[1], shift.dtype
        return torch.lerp(near, far, fraction)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        position, fraction, slope = ctx.saved_tensors
        position = position.long()
        batch, _, channels = gradient.shape
        d_far = gradient * fraction
        d_values = gradient.new_zeros(batch, ctx.length, channels)
        d_values.scatter_add_(1, position, gradient - d_far).scatter_add_(1, position - 1, d_far)
        return d_values, (gradient * slope).to(ctx.shift_dtype)


def resample(values: Tensor, shift: Tensor) -> Tensor:
    """y_t = (1 - f) v_{t-n} + f v_{t-n-1} with n = ⌊s_t⌋ and f = s_t - n, channel by channel: v read s_t tokens ago.

    values: [B, n + ℓ, D], of which the last ℓ are the present chunk; shift: [B, ℓ, D], from 0 to n, in float32 or
    better, so that positions are exact whatever the values' dtype is. Nothing ahead of t is ever read. Returns
    [B, ℓ, D].
    """
    return _Resample.apply(values, shift)
