"""Several linear maps of one input: y_i = W_i x, ∂L/∂x = Σ_i W_iᵀ ∂L/∂y_i.

The sum is formed inside the products, where autograd would write each term out and add them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


class _Projections(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        return tuple(functional.linear(x, weight) for weight in weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        rows = x.flatten(0, -2)
        parts = [gradient.flatten(0, -2) for gradient in gradients]
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = parts[0] @ weights[0]
            for part, weight in zip(parts[1:], weights[1:], strict=True):
                d_x.addmm_(part, weight)
            d_x = d_x.view(x.shape)
        return d_x, *(part.t() @ rows for part in parts)


def projections(x: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """x: [B, ℓ, d], weights: [d_i, d] → [B, ℓ, d_i] each. Differentiable once; autocast does not reach into it."""
    return _Projections.apply(x, *weights)


def joined(x: Tensor) -> bool:
    """Whether this pays, and may be done: while gradients are recorded, in one precision."""
    return torch.is_grad_enabled() and not autocasts(x)


def autocasts(x: Tensor) -> bool:
    """Whether products of `x` are cast to another precision now."""
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Within this block products of `x` are cast to no other precision. Where none are, nothing is done: leaving
    autocast takes time that small operators notice, and some devices have none to leave."""
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else nullcontext()
