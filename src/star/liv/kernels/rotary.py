"""Rotary position embedding (Su et al. 2024) as a complex multiplication."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from star.liv.kernels import native
from star.liv.kernels.choice import Kernel

BASE = 10_000.0


@lru_cache(maxsize=64)
def _phases(length: int, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    frequency = BASE ** (-torch.arange(0, size, 2, dtype=torch.float64, device=device) / size)
    angle = torch.outer(torch.arange(length, dtype=torch.float64, device=device), frequency)
    return torch.polar(torch.ones_like(angle), angle).to(dtype)


def phases(position: int, length: int, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """e^{i t ω} for `length` tokens t from `position` on: [ℓ, size / 2], complex, for a real `dtype`."""
    table = 1 << max(position + length - 1, 1).bit_length()  # few distinct tables, however a context grows
    with torch.inference_mode(False):
        known = _phases(table, size, device, dtype.to_complex())
    return known[position : position + length]


def rotate(x: Tensor, position: int) -> Tensor:
    """Rotate pairs (2i, 2i+1) of x: [B, ℓ, H, size] whose first token stands at `position`; size even.

    Phases are built in float64 and applied in float32 (float64 for float64 input); returns x's dtype.
    """
    return ROTARY(x, position)


def _reference(x: Tensor, position: int) -> Tensor:
    """Each pair as a point of the plane, turned by t ω, in float64."""
    turns = phases(position, x.shape[1], x.shape[3], x.device, torch.float64).unsqueeze(1)
    first, second = x.double().unflatten(-1, (-1, 2)).unbind(-1)
    turned = (first * turns.real - second * turns.imag, first * turns.imag + second * turns.real)
    return torch.stack(turned, dim=-1).flatten(-2).to(x.dtype)


def _portable(x: Tensor, position: int) -> Tensor:
    real = torch.promote_types(x.dtype, torch.float32)
    turns = phases(position, x.shape[1], x.shape[3], x.device, real).unsqueeze(1)
    if x.shape[0] > 1:  # written out for all heads, products run along them
        turns = turns.expand(-1, x.shape[2], -1).contiguous()
    pairs = torch.view_as_complex(native.side_by_side(x.to(real)).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


ROTARY = Kernel("rotary embedding", _reference, _portable)
