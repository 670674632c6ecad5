"""Causal attention without a nonlinearity, in time linear in the length (Katharopoulos et al. 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from star.liv.kernels.choice import Kernel

SHORTEST_CHUNK = 32  # tokens; with as many as a head is wide, the work within chunks equals that between them


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """y_i = Σ_{j ≤ i} (q_i · k_j) v_j. q, k: [B, H, ℓ, h]; v: [B, H, ℓ, m], all of one dtype. Returns [B, H, ℓ, m]."""
    return LINEAR_ATTENTION(q, k, v)


def _reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The equation with the whole matrix, in float64."""
    return ((q.double() @ k.double().mT).tril() @ v.double()).to(v.dtype)


class _LinearAttention(torch.autograd.Function):
    """Chunk by chunk: a masked product inside a chunk, the sum of k ⊗ v before it between chunks. [S, n, c, ·] for S
    sequences and heads of n chunks. Keeps the sums; the masked products are computed again backward."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        before = _sum_before(k.mT @ v)
        ctx.save_for_backward(q, k, v, before)
        y = (q @ k.mT).tril_() @ v
        return y.flatten(0, 1).baddbmm_(q.flatten(0, 1), before.flatten(0, 1)).view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shapes = [tensor.shape for tensor in ctx.saved_tensors[:3]]
        after = _sum_before((ctx.saved_tensors[0].mT @ gradient).flip(1)).flip(1)
        q, k, v, before, after, dy = (tensor.flatten(0, 1) for tensor in (*ctx.saved_tensors, after, gradient))
        scores = torch.bmm(q, k.mT).tril_()
        d_scores = torch.bmm(dy, v.mT).tril_()
        d_q = torch.bmm(d_scores, k).baddbmm_(dy, before.mT)
        d_k = torch.bmm(d_scores.mT, q).baddbmm_(v, after.mT)
        d_v = torch.bmm(scores.mT, dy).baddbmm_(k, after)
        return d_q.view(shapes[0]), d_k.view(shapes[1]), d_v.view(shapes[2])


def _sum_before(x: Tensor) -> Tensor:
    """The sum over all earlier places of dim 1."""
    total = torch.zeros_like(x)
    torch.cumsum(x[:, :-1], 1, out=total[:, 1:])
    return total


def _portable(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    length = q.shape[2]
    chunk = min(max(SHORTEST_CHUNK, q.shape[3]), length)
    padding = -length % chunk
    # B H (n c) · -> (B H) n c ·
    parts = (functional.pad(t, (0, 0, 0, padding)) if padding else t for t in (q, k, v))
    y = _LinearAttention.apply(*(part.reshape(-1, (length + padding) // chunk, chunk, part.shape[3]) for part in parts))
    return y.view(*q.shape[:2], length + padding, v.shape[3])[:, :, :length]


LINEAR_ATTENTION = Kernel("linear attention", _reference, _portable)
