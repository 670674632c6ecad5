"""The product of a gated unit, SwiGLU's (Shazeer 2020), with σ the logistic function:

    y = swish(g) ⊙ u = g σ(g) ⊙ u,    ∂y/∂u = g σ(g),    ∂y/∂g = σ(g) (1 + g (1 - σ(g))) ⊙ u

The native version computes σ(g) again backward instead of keeping swish(g).
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from star.liv.kernels import native
from star.liv.kernels.choice import Kernel, Native


def gated_unit(gate: Tensor, up: Tensor) -> Tensor:
    """swish(gate) ⊙ up for two tensors of one shape."""
    return GATED_UNIT(gate, up)


def _reference(gate: Tensor, up: Tensor) -> Tensor:
    """The equation in float64."""
    g = gate.double()
    return (g * torch.sigmoid(g) * up.double()).to(gate.dtype)


def _portable(gate: Tensor, up: Tensor) -> Tensor:
    return functional.silu(gate) * up


class _Matrix(ctypes.Structure):
    """[rows, width] with numbers of a row side by side."""

    _fields_ = (("data", ctypes.c_void_p), ("stride", ctypes.c_int64))


class _Sizes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("rows", "width", "threads"))


class _Forward(ctypes.Structure):
    _fields_ = (("size", _Sizes), *((name, _Matrix) for name in ("gate", "up", "y")))


class _Backward(ctypes.Structure):
    _fields_ = (("size", _Sizes), *((name, _Matrix) for name in ("gate", "up", "d_y", "y", "d_gate", "d_up")))


NARROW = 64
FEWEST = 1 << 12  # elements; below, calls cost more than memory
SOURCE = "gated_unit.cpp"


def native_product(gate: Tensor, up: Tensor, y: Tensor) -> None:
    """Writes swish(gate) ⊙ up to y; all [n, width] and of one dtype, rows anywhere."""
    record = _Forward(_sizes(gate), *map(_matrix, (gate, up, y)))
    native.library(SOURCE).call(native.entry("gated_unit_forward", gate.dtype), record)


def native_gradients(gate: Tensor, up: Tensor, d_y: Tensor, y: Tensor | None, d_gate: Tensor, d_up: Tensor) -> None:
    """Writes the gradients of gate and up, and the product again where y has room for it; all [n, width] and of one
    dtype. `d_gate` or `d_up` may be `d_y` itself."""
    record = _Backward(_sizes(gate), *map(_matrix, (gate, up, d_y, y, d_gate, d_up)))
    native.library(SOURCE).call(native.entry("gated_unit_backward", gate.dtype), record)


def _sizes(gate: Tensor) -> _Sizes:
    return _Sizes(*gate.shape, torch.get_num_threads())


def _matrix(tensor: Tensor | None) -> _Matrix:
    return _Matrix() if tensor is None else _Matrix(tensor.data_ptr(), tensor.stride(0))


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        y = torch.empty_like(gate)
        native_product(*map(_flat, (gate, up, y)))
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
        native_gradients(_flat(gate), _flat(up), _flat(d_y.contiguous()), None, _flat(d_gate), _flat(d_up))
        return d_gate, d_up


def _flat(tensor: Tensor) -> Tensor:
    """[rows, width]: one row of all numbers where rows would be too narrow."""
    width = tensor.shape[-1] if tensor.dim() else 1
    return tensor.view(-1, width) if width >= NARROW else tensor.view(1, -1)


def _serves(gate: Tensor, up: Tensor) -> bool:
    return gate.numel() >= FEWEST and gate.shape == up.shape and native.readable_alike(gate, up)


GATED_UNIT = Kernel("gated unit", _reference, _portable, Native(SOURCE, _Native.apply, _serves))
