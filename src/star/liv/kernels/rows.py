"""Sequences as the native kernels take them: where a tensor lies in memory, and the distances between its rows."""

from __future__ import annotations

import ctypes

from torch import Tensor


class Rows(ctypes.Structure):
    """A tensor [B, ℓ, ·] whose last dimension is contiguous; `Rows` of vector.h."""

    _fields_ = (("data", ctypes.c_void_p), ("batch", ctypes.c_int64), ("time", ctypes.c_int64))


def rows_of(tensor: Tensor | None) -> Rows:
    """None is a null pointer; [1 or B, ℓ] is one number for each token, in one row for the whole batch where it is
    [1, ℓ]."""
    if tensor is None:
        return Rows()
    if tensor.dim() == 2:
        return Rows(tensor.data_ptr(), 0 if tensor.shape[0] == 1 else tensor.stride(0), tensor.stride(1))
    return Rows(tensor.data_ptr(), tensor.stride(0), tensor.stride(1))
