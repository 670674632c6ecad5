"""Causal softmax attention with grouped queries:

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
from torch.nn import functional

from star.liv.kernels import native
from star.liv.kernels.choice import Kernel, Native


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q: [B, H, ℓ, h]; k, v: [B, kv heads, ℓ, h] for the same tokens, of q's dtype → [B, H, ℓ, h]. Linear memory."""
    return ATTENTION(q, k, v)


def _reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The equation with the whole matrix, in float64."""
    repeats = q.shape[1] // k.shape[1]
    k, v = (tensor.double().repeat_interleave(repeats, dim=1) for tensor in (k, v))
    scores = q.double() @ k.transpose(-1, -2) / sqrt(q.shape[-1])
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return (scores.masked_fill(future, float("-inf")).softmax(-1) @ v).to(q.dtype)


def _portable(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] > k.shape[1])


class _Heads(ctypes.Structure):
    """A tensor [B, heads, ℓ, h] whose last dimension is contiguous."""

    _fields_ = (("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("batch", "head", "time")))


class _Sizes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("batch", "heads", "kv_heads", "length", "size", "threads"))


class _Forward(ctypes.Structure):
    _fields_ = (
        ("size", _Sizes),
        *((name, _Heads) for name in ("q", "k", "v", "y")),
        ("rows", ctypes.c_void_p),
    )


class _Backward(ctypes.Structure):
    _fields_ = (
        ("size", _Sizes),
        *((name, _Heads) for name in ("q", "k", "v", "y", "d_y", "d_q", "d_k", "d_v")),
        ("rows", ctypes.c_void_p),
    )


SOURCE = "attention.cpp"
HEAD_SIZES = (16, 32, 64)
SHORTEST = 64  # tokens; below, PyTorch's own is as fast


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (native.side_by_side(tensor) for tensor in (q, k, v))
        y, rows = _time_before_heads(q), torch.empty(2, *q.shape[:3])
        heads = [_heads(tensor) for tensor in (q, k, v, y)]
        native.library(SOURCE).call("attention_forward", _Forward(_sizes(q, k), *heads, rows.data_ptr()))
        ctx.save_for_backward(q, k, v, y, rows)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, y, rows = ctx.saved_tensors
        gradients = [_time_before_heads(tensor) for tensor in (q, k, v)]
        heads = [_heads(tensor) for tensor in (q, k, v, y, native.side_by_side(d_y), *gradients)]
        native.library(SOURCE).call("attention_backward", _Backward(_sizes(q, k), *heads, rows.data_ptr()))
        return gradients[0], gradients[1], gradients[2]


def _sizes(q: Tensor, k: Tensor) -> _Sizes:
    return _Sizes(q.shape[0], q.shape[1], k.shape[1], q.shape[2], q.shape[3], torch.get_num_threads())


def _heads(tensor: Tensor) -> _Heads:
    return _Heads(tensor.data_ptr(), *tensor.stride()[:3])


def _time_before_heads(like: Tensor) -> Tensor:
    """Uninitialised [B, heads, ℓ, h], laid out as the projections before and after attention have it."""
    batch, heads, length, size = like.shape
    return torch.empty(batch, length, heads, size).transpose(1, 2)


def _serves(q: Tensor, k: Tensor, v: Tensor) -> bool:
    fits = q.shape[-1] == v.shape[-1] and q.shape[-1] in HEAD_SIZES and q.shape[-2] >= SHORTEST
    return fits and all(map(native.readable, (q, k, v)))


ATTENTION = Kernel("softmax attention", _reference, _portable, Native(SOURCE, _Native.apply, _serves))
