"""One token of a whole backbone in one call: the records that `decode.cpp` executes, and the choice between them and
the plan of functions over torch operations.

Every record class mirrors a structure of the same name, with sizes as int64, tensors as addresses. `Program` holds
them in order.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from star.liv.kernels import native
from star.liv.kernels.choice import Kernel, Native

SOURCE = "decode.cpp"
MOST = 16  # sequences of a batch


def _fields(sizes: str, tensors: str) -> tuple[tuple[str, type], ...]:
    return (
        ("kind", ctypes.c_int64),
        *((name, ctypes.c_int64) for name in sizes.split()),
        *((name, ctypes.c_void_p) for name in tensors.split()),
    )


class Copy(ctypes.Structure):
    _fields_ = _fields("size", "x y")


class Add(ctypes.Structure):
    _fields_ = _fields("size", "x y")


class Norm(ctypes.Structure):
    _fields_ = (*_fields("size", "x weight y"), ("epsilon", ctypes.c_double))


class Product(ctypes.Structure):
    _fields_ = _fields("inputs outputs sign", "x weight y")


class Finish(ctypes.Structure):
    _fields_ = _fields("size taps nonlinearity repeat", "x weight bias ring y")


class Gate(ctypes.Structure):
    _fields_ = _fields("size nonlinearity", "gate up y")


class Scan(ctypes.Structure):
    _fields_ = _fields("size states", "v z delta B C decay present h y")


class StateSpace(ctypes.Structure):
    _fields_ = _fields("size states paired", "u transition drive readout present h y")


class Convolution(ctypes.Structure):
    _fields_ = _fields("size length", "u kernel past y")


class Resample(ctypes.Structure):
    _fields_ = _fields("size window length", "x shift bias ring y")


class Rotate(ctypes.Structure):
    _fields_ = _fields("size head", "phases x")


class Attend(ctypes.Structure):
    _fields_ = _fields("heads kv_heads size value_size length window blocks", "q k v keys values y")


class LinearAttention(ctypes.Structure):
    _fields_ = _fields("heads kv_heads size value_size", "q k v total y")


#: In the order of the table in the C++ file.
OPERATIONS: tuple[type[ctypes.Structure], ...] = (
    Copy,
    Add,
    Norm,
    Product,
    Finish,
    Gate,
    Scan,
    StateSpace,
    Convolution,
    Resample,
    Rotate,
    Attend,
    LinearAttention,
)
KINDS = {operation: kind for kind, operation in enumerate(OPERATIONS)}


class Program(ctypes.Structure):
    """`count` records in order, for a token at `position`. turned: room for 16 of the longest input of a product;
    scores: [heads, room], room a multiple of 16 above the position."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "position", "count", "room")),
        *((name, ctypes.c_void_p) for name in ("records", "turned", "scores")),
    )


class Bound(Protocol):
    """What runs a token of one decoding state natively: x [B, d] → [B, outputs]."""

    def __call__(self, x: Tensor) -> Tensor: ...


def _plan(x: Tensor, plan: Callable[[Tensor], Tensor], program: Bound | None) -> Tensor:
    return plan(x)


def _program(x: Tensor, plan: Callable[[Tensor], Tensor], program: Bound | None) -> Tensor:
    assert program is not None
    return program(x)


def _serves(x: Tensor, plan: Callable[[Tensor], Tensor], program: Bound | None) -> bool:
    return program is not None and native.readable(x)


#: x [B, d], the token by torch operations, the token by a program or None where there is none for its state.
DECODING = Kernel("decoding", _plan, _plan, Native(SOURCE, _program, _serves))
