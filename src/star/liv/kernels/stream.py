"""A residual stream as a kernel reads it that is a LIV with the norm before it: x itself, or the norm of x + update.

Such kernels take x, update, the norm's weight and its ε before anything else, then the weights of the LIV. Without a
norm's weight there is no norm and no update; without an update x itself is normed. They give x + update (or x) and the
output of the LIV, which may be in half precision, as its weights, while the stream is not.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from star.liv.kernels import native, rms_norm
from star.liv.kernels.rms_norm import RMS_NORM

Both = tuple[Tensor, Tensor]


def after_norm(liv: Callable[..., Tensor]) -> Callable[..., Both]:
    """A LIV, called as liv(n, *others), with the norm before it as a kernel of its own; n has the dtype of the first of
    others, a weight."""

    def both(x: Tensor, update: Tensor | None, norm: Tensor | None, epsilon: float, *others: Any) -> Both:
        dtype = others[0].dtype
        total, n = (x, x.to(dtype)) if norm is None else RMS_NORM(x, update, norm, epsilon, dtype)
        return total, liv(n, *others)

    return both


def after_exact_norm(liv: Callable[..., Tensor]) -> Callable[..., Both]:
    """The same for a reference: `liv` gets n in float64, and what it gives is rounded to the weights' dtype."""

    def both(x: Tensor, update: Tensor | None, norm: Tensor | None, epsilon: float, *others: Any) -> Both:
        total = n = x.double()
        if norm is not None:
            total, n = RMS_NORM.reference(total, None if update is None else update.double(), norm.double(), epsilon)
        return x if update is None else total.to(x.dtype), liv(n, *others).to(others[0].dtype)

    return both


def readable(x: Tensor, update: Tensor | None, norm: Tensor | None) -> bool:
    """Whether the native kernels are made for it."""
    return native.readable(x) and update is None if norm is None else rms_norm.readable(x, update, norm)


class Stream(ctypes.Structure):
    """`Stream` of stream.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "update", "weight", "total", "inverse")),
        ("epsilon", ctypes.c_float),
    )


class StreamForward:
    """What the forward pass of a native kernel reads of a stream, and keeps for the backward pass."""

    def __init__(self, ctx: Any, x: Tensor, update: Tensor | None, norm: Tensor | None, epsilon: float) -> None:
        x, norm = x.contiguous(), None if norm is None else norm.contiguous()
        update = None if update is None else update.contiguous()
        self.total = x if update is None else torch.empty_like(x)
        inverse = None if norm is None else x.new_empty(x.shape[:-1])
        self.kept = (self.total, norm, inverse)
        self.held = (x, update)  # until C++ has read them
        self.record = Stream(*map(native.address, (x, update, norm, self.total, inverse)), epsilon)
        ctx.added = update is not None
        if ctx.added and not any(ctx.needs_input_grad[:2]):
            ctx.mark_non_differentiable(self.total)
        ctx.set_materialize_grads(False)

    def outputs(self, y: Tensor) -> Any:
        """Where nothing is added, x is no output of the function: its gradient needs nothing of this one."""
        return (self.total, y) if self.held[1] is not None else y


class StreamBackward:
    """What its backward pass does with `kept`, and with the gradients of all outputs."""

    def __init__(self, ctx: Any, kept: tuple[Tensor, Tensor | None, Tensor | None], gradients: Any) -> None:
        self.total, self.norm, inverse = kept
        d_total, d_y = gradients if ctx.added else (None, *gradients)
        self.d_total, self.d_y = (None if one is None else one.contiguous() for one in (d_total, d_y))
        self.record = Stream(*map(native.address, (self.total, None, self.norm, None, inverse)))
        self.wanted = ctx.needs_input_grad[:4]
        self.d_x = torch.empty_like(self.total) if any(self.wanted[:2]) else None
        self.d_norm = torch.empty_like(self.norm) if self.wanted[2] and self.norm is not None else None

    def gradients(self) -> tuple[Tensor | None, ...]:
        """Those of x, update, norm and ε."""
        if self.d_y is None:  # nothing looks at the LIV's output
            return self.d_total, self.d_total if self.wanted[1] else None, None, None
        return self.d_x, self.d_x if self.wanted[1] else None, self.d_norm, None
