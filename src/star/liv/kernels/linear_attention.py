"""Causal attention without a nonlinearity, in time linear in the length (Katharopoulos et al. 2020)."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from star.liv.kernels import native
from star.liv.kernels.choice import Kernel, Native
from star.liv.kernels.rows import Heads, heads_of, time_before_heads

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
        saved = ctx.saved_tensors  # which may be asked for once, under a checkpoint
        shapes = [tensor.shape for tensor in saved[:3]]
        after = _sum_before((saved[0].mT @ gradient).flip(1)).flip(1)
        q, k, v, before, after, dy = (tensor.flatten(0, 1) for tensor in (*saved, after, gradient))
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


class _Pass(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "heads", "length", "keys", "values", "threads")),
        *((name, Heads) for name in ("q", "k", "v", "y")),
    )


SOURCE = "linear_attention.cpp"
# Elements of a head. Whole registers on every CPU, and sums that stay in the second-level cache: a single head of 1024
# takes longer than PyTorch's products.
UNIT, LARGEST = 16, 256


class _Native(torch.autograd.Function):
    """Keeps q, k and v alone. Each gradient is a sum like y itself:

    dq_i = Σ_{j ≤ i} (dy_i · v_j) k_j,   dk_j = Σ_{i ≥ j} (v_j · dy_i) q_i,   dv_j = Σ_{i ≥ j} (k_j · q_i) dy_i.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (native.side_by_side(tensor) for tensor in (q, k, v))
        ctx.save_for_backward(q, k, v)
        return _sum(q, k, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = ctx.saved_tensors
        d_y = native.side_by_side(d_y)
        return _sum(d_y, v, k), _sum(v, d_y, q, backwards=True), _sum(k, q, d_y, backwards=True)


def _sum(q: Tensor, k: Tensor, v: Tensor, backwards: bool = False) -> Tensor:
    """y_i = Σ (q_i · k_j) v_j over j ≤ i, or j ≥ i, laid out as the projections before and after have it."""
    batch, heads, length, keys = q.shape
    y = time_before_heads(q, v.shape[3])
    tensors = (heads_of(tensor, backwards) for tensor in (q, k, v, y))
    record = _Pass(batch, heads, length, keys, v.shape[3], torch.get_num_threads(), *tensors)
    native.library(SOURCE).call("linear_attention", record)
    return y


def _serves(q: Tensor, k: Tensor, v: Tensor) -> bool:
    fit = q.shape == k.shape and q.shape[:3] == v.shape[:3]
    sizes = all(size % UNIT == 0 and size <= LARGEST for size in (q.shape[3], v.shape[3]))
    return fit and sizes and all(map(native.readable, (q, k, v)))


LINEAR_ATTENTION = Kernel("linear attention", _reference, _portable, Native(SOURCE, _Native.apply, _serves))
