"""Causal softmax attention with grouped queries, whose queries and keys may carry rotary positions:

    y_i = Σ_{j ≤ i} P_ij v_j,    P_ij = exp(q_i · k_j / √h) / Σ_{m ≤ i} exp(q_i · k_m / √h)

head by head, where a head of k and v serves several of q. Backward, with dP = ∂L/∂y vᵀ:
∂L/∂v = Pᵀ ∂L/∂y, ∂L/∂q = S k / √h, ∂L/∂k = Sᵀ q / √h for S_ij = P_ij (dP_ij - ∂L/∂y_i · y_i).
"""

from __future__ import annotations

import ctypes
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from star.liv.kernels import native
from star.liv.kernels.choice import Kernel, Native
from star.liv.kernels.rotary import phases, rotate
from star.liv.kernels.rows import Heads, heads_of, time_before_heads
from star.liv.kernels.sdpa import dot_product_attention


def causal_attention(q: Tensor, k: Tensor, v: Tensor, position: int | None = None) -> Tensor:
    """q: [B, H, ℓ, h]; k, v: [B, kv heads, ℓ, h] for the same tokens, of q's dtype → [B, H, ℓ, h]. Linear memory.

    `position`: where the first token stands, if q and k are still to be turned by their rotary phases (see `rotate`).
    """
    return ATTENTION(q, k, v, position)


def turned(q: Tensor, k: Tensor, position: int | None) -> tuple[Tensor, Tensor]:
    """q and k [B, heads, ℓ, h] turned by their rotary phases; as they are where `position` is None."""
    if position is None:
        return q, k
    return rotate(q.transpose(1, 2), position).transpose(1, 2), rotate(k.transpose(1, 2), position).transpose(1, 2)


def _reference(q: Tensor, k: Tensor, v: Tensor, position: int | None = None) -> Tensor:
    """The equation with the whole matrix, in float64."""
    given = v.dtype
    q, k = turned(q.double(), k.double(), position)
    repeats = q.shape[1] // k.shape[1]
    k, v = (tensor.double().repeat_interleave(repeats, dim=1) for tensor in (k, v))
    scores = q @ k.transpose(-1, -2) / sqrt(q.shape[-1])
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return (scores.masked_fill(future, float("-inf")).softmax(-1) @ v).to(given)


def _portable(q: Tensor, k: Tensor, v: Tensor, position: int | None = None) -> Tensor:
    q, k = turned(q, k, position)
    return dot_product_attention(q, k, v, causal=True)


SIZES = "batch", "heads", "kv_heads", "length", "size", "threads", "tiles"
TILES = True  # whether products of halves may use a CPU's tiles, where it has them


class _Sizes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in SIZES)


class _Forward(ctypes.Structure):
    _fields_ = (
        ("size", _Sizes),
        *((name, Heads) for name in ("q", "k", "v", "y")),
        *((name, ctypes.c_void_p) for name in ("turns", "rows")),
    )


class _Backward(ctypes.Structure):
    _fields_ = (
        ("size", _Sizes),
        *((name, Heads) for name in ("q", "k", "v", "y", "d_y", "d_q", "d_k", "d_v")),
        *((name, ctypes.c_void_p) for name in ("turns", "rows")),
    )


SOURCE = "attention.cpp"
HEAD_SIZES = (16, 32, 64)
SHORTEST = 64  # tokens; below, PyTorch's own is as fast


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, position: int | None = None) -> Tensor:
        q, k, v = (native.side_by_side(tensor) for tensor in (q, k, v))
        y, turns = time_before_heads(q), _turns(q, position)
        rows = q.new_empty(2, *q.shape[:3], dtype=torch.float32)
        heads = [heads_of(tensor) for tensor in (q, k, v, y)]
        others = map(native.address, (turns, rows))
        entry = native.entry("attention_forward", q.dtype)
        native.library(SOURCE).call(entry, _Forward(_sizes(q, k), *heads, *others))
        ctx.save_for_backward(q, k, v, y, rows)
        ctx.position = position
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, y, rows = ctx.saved_tensors
        d_y = native.side_by_side(d_y)  # must live until C++ has read it
        gradients, turns = [time_before_heads(tensor) for tensor in (q, k, v)], _turns(q, ctx.position)
        heads = [heads_of(tensor) for tensor in (q, k, v, y, d_y, *gradients)]
        others = map(native.address, (turns, rows))
        entry = native.entry("attention_backward", q.dtype)
        native.library(SOURCE).call(entry, _Backward(_sizes(q, k), *heads, *others))
        return *gradients, None


def _turns(q: Tensor, position: int | None) -> Tensor | None:
    """The rotary phases of the tokens: [ℓ, h / 2], complex."""
    return None if position is None else phases(position, q.shape[2], q.shape[3], q.device, torch.float32)


def _sizes(q: Tensor, k: Tensor) -> _Sizes:
    return _Sizes(q.shape[0], q.shape[1], k.shape[1], q.shape[2], q.shape[3], torch.get_num_threads(), TILES)


def _serves(q: Tensor, k: Tensor, v: Tensor, position: int | None = None) -> bool:
    fit = k.shape == v.shape and (q.shape[0], *q.shape[2:]) == (k.shape[0], *k.shape[2:])
    fit = fit and native.readable_alike(q, k, v)
    return fit and q.shape[1] % k.shape[1] == 0 and q.shape[3] in HEAD_SIZES and q.shape[2] >= SHORTEST


ATTENTION = Kernel("softmax attention", _reference, _portable, Native(SOURCE, _Native.apply, _serves))
