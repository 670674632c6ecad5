"""Sequences as the native kernels take them: where a tensor lies in memory, and the distances between its rows."""

from __future__ import annotations

import ctypes

from torch import Tensor


class Rows(ctypes.Structure):
    """A tensor [B, ℓ, ·] whose last dimension is contiguous; `Rows` of vector.h."""

    _fields_ = (("data", ctypes.c_void_p), ("batch", ctypes.c_int64), ("time", ctypes.c_int64))


class Heads(ctypes.Structure):
    """A tensor [B, H, ℓ, ·] whose last dimension is contiguous; `Heads` of vector.h. A negative distance reads it from
    its end."""

    _fields_ = (("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("batch", "head", "time")))


def heads_of(tensor: Tensor, backwards: bool = False) -> Heads:
    """As it lies, or with its tokens from the last to the first."""
    batch, head, time, _ = tensor.stride()
    if not backwards:
        return Heads(tensor.data_ptr(), batch, head, time)
    return Heads(tensor.data_ptr() + (tensor.shape[2] - 1) * time * tensor.element_size(), batch, head, -time)


def time_before_heads(like: Tensor, size: int | None = None) -> Tensor:
    """Uninitialised [B, H, ℓ, size] like a tensor [B, H, ℓ, ·], laid out as the projections before and after attention
    have it."""
    batch, heads, length, own = like.shape
    return like.new_empty(batch, length, heads, size or own).transpose(1, 2)


def spans(like: Tensor) -> tuple[tuple[int, int], ...]:
    """The shapes that one number for each token of [B, ℓ, ·] may have."""
    return (1, like.shape[1]), (like.shape[0], like.shape[1])


def rows_of(tensor: Tensor | None) -> Rows:
    """None is a null pointer; [1 or B, ℓ] is one number for each token, in one row for the whole batch where it is
    [1, ℓ]."""
    if tensor is None:
        return Rows()
    if tensor.dim() == 2:
        return Rows(tensor.data_ptr(), 0 if tensor.shape[0] == 1 else tensor.stride(0), tensor.stride(1))
    return Rows(tensor.data_ptr(), tensor.stride(0), tensor.stride(1))
