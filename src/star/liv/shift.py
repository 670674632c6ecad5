"""Shifts: how far back a resampled group reads, bounded by a window."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional

from star.liv.kernels.resample import resample
from star.liv.maps import undecayed

NEAREST = 0.5  # tokens: the smallest shift at initialisation


def bounded_shift(raw: Tensor, window: int) -> Tensor:
    """s = W (1 - exp(-softplus(raw) / W)), from 0 to W, in float32 or better. Near softplus(raw) where that is small;
    never flat, so that no channel is stuck at the bound."""
    raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
    return -window * torch.expm1(functional.softplus(raw) / -window)


def resampled(values: Tensor, length: int, shift: Tensor, window: int) -> Tensor:
    """The last `length` of values [B, n, D] read `shift` [B, ℓ, D] tokens ago. Before the first value stand zeros, as
    many as the window has tokens or, where it is longer, as there are values: further away is nothing, either."""
    lead = min(window, values.shape[1])
    missing = lead + length - values.shape[1]
    padded = functional.pad(values, (0, 0, missing, 0)) if missing > 0 else values[:, -missing:]
    return resample(padded, shift if lead == window else shift.clamp(max=lead))


class Shift(nn.Module):
    """The shifts of a resampled feature group: [B, ℓ, inputs] → [B, ℓ, outputs], from 0 to `window` tokens."""

    def __init__(self, project: nn.Module, outputs: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.project = project
        self.bias = undecayed(nn.Parameter(torch.empty(outputs)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        spread_(self.bias, NEAREST, max(1.0, float(self.window)))

    def forward(self, x: Tensor) -> Tensor:
        raw = self.project(x)
        return bounded_shift(raw.to(torch.promote_types(raw.dtype, torch.float32)) + self.bias, self.window)


@torch.no_grad()
def spread_(values: Tensor, low: float, high: float) -> None:
    """Fill `values` with numbers whose softplus is log-uniform from `low` to `high`. On the meta device, where a search
    counts parameters, there is nothing to fill, and composing it would take longer than building the rest."""
    if not values.is_meta:
        drawn = low * torch.exp(torch.rand_like(values) * log(high / low))
        values.copy_(drawn + torch.log(-torch.expm1(-drawn)))
