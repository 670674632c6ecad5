"""Causal softmax attention with its four linear maps (multi-head attention, Vaswani et al. 2017):

    q = W_q n,    k = W_k n,    v = W_v n,    y = W_o [attention of each head of q, k and v]

for tokens n, or the norm of a residual stream. Natively, weights that stay in the cache are multiplied by C++, too:
products then leave q, k and v as attention reads them, a sequence after the other goes through all of it, and MKL is
slower at products with so few columns.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from star.liv.kernels import native, stream
from star.liv.kernels.attention import ATTENTION, HEAD_SIZES, SHORTEST, causal_attention
from star.liv.kernels.choice import Kernel, Native
from star.liv.kernels.projections import joined, projections
from star.liv.kernels.rotary import phases
from star.liv.kernels.stream import Both, Stream, StreamBackward, StreamForward, after_exact_norm, after_norm


def multi_head_attention(
    x: Tensor,
    update: Tensor | None,
    norm: Tensor | None,
    epsilon: float,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    size: int,
    position: int | None = None,
) -> Both:
    """x, update: [B, ℓ, d], norm: [d]; weights q: [H h, d], k and v: [kv heads · h, d], out: [d', H h] → x + update and
    y [B, ℓ, d'], in the weights' dtype.

    See `star.liv.kernels.stream` for the first four. `size` is h, that of a head. `position`: where the first token
    stands, if q and k carry rotary phases (see `rotate`). Differentiable once; autocast does not reach into it.
    """
    both: Both = MULTI_HEAD_ATTENTION(x, update, norm, epsilon, q, k, v, out, size, position)
    return both


def _reference(n: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, size: int, position: int | None) -> Tensor:
    """The equation in float64."""
    mapped = (_heads(n @ weight.double().t(), size) for weight in (q, k, v))
    return _tokens(ATTENTION.reference(*mapped, position)) @ out.double().t()


def _portable(n: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, size: int, position: int | None) -> Tensor:
    weights = q, k, v
    mapped = projections(n, weights) if joined(n) else tuple(functional.linear(n, weight) for weight in weights)
    heads = [_heads(one, size) for one in mapped]
    return functional.linear(_tokens(causal_attention(heads[0], heads[1], heads[2], position)), out)


def _heads(x: Tensor, size: int) -> Tensor:
    """[B, ℓ, H h] → [B, H, ℓ, h]."""
    return x.unflatten(-1, (-1, size)).transpose(1, 2)


def _tokens(x: Tensor) -> Tensor:
    """[B, H, ℓ, h] → [B, ℓ, H h]."""
    return x.transpose(1, 2).flatten(-2)


class _Sizes(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in ("batch", "length", "inputs", "outputs", "heads", "kv_heads", "size", "threads")
    )


class _Forward(ctypes.Structure):
    _fields_ = (
        ("size", _Sizes),
        ("stream", Stream),
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "out")),
        *((name, ctypes.c_void_p) for name in ("turns", "features", "mixed", "rows", "y")),
    )


class _Backward(ctypes.Structure):
    _fields_ = (
        ("way", _Forward),
        *((name, ctypes.c_void_p) for name in ("d_total", "d_y")),
        *((name, ctypes.c_void_p) for name in ("d_x", "d_norm", "d_q", "d_k", "d_v", "d_out", "sums")),
    )


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, update: Tensor | None, norm: Tensor | None, epsilon: float, *others: Any) -> Any:
        begun = StreamForward(ctx, x, update, norm, epsilon)
        weights, (head, position) = tuple(weight.contiguous() for weight in others[:4]), others[4:]
        q, k, _, out = weights
        batch, length, width = x.shape
        padded = -(-length // BLOCK) * BLOCK
        heads, kv_heads = q.shape[0] // head, k.shape[0] // head
        ctx.size = _Sizes(batch, length, width, out.shape[0], heads, kv_heads, head, torch.get_num_threads())
        features = x.new_empty(batch, heads + 2 * kv_heads, padded, head)
        mixed, rows = x.new_empty(batch, length, q.shape[0]), x.new_empty(2, batch, heads, padded)
        turns = None if position is None else phases(position, padded, head, x.device, x.dtype)
        y = x.new_empty(batch, length, out.shape[0])
        tensors = *weights, turns, features, mixed, rows
        record = _Forward(ctx.size, begun.record, *map(native.address, (*tensors, y)))
        native.library(SOURCE).call("multi_head_attention_forward", record)
        ctx.save_for_backward(*begun.kept, *tensors)
        return begun.outputs(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        total, norm, inverse, *others = ctx.saved_tensors
        back = StreamBackward(ctx, (total, norm, inverse), gradients)
        if back.d_y is None:
            return *back.gradients(), *[None] * 6
        of_weights = tuple(
            torch.empty_like(weight) if wanted else None
            for weight, wanted in zip(others[:4], ctx.needs_input_grad[4:8], strict=True)
        )
        library = native.library(SOURCE)
        sums = back.d_y.new_zeros(library.number("multi_head_attention_sums", ctx.size))  # of weights' gradients
        way = _Forward(ctx.size, back.record, *map(native.address, (*others, None)))
        tensors = back.d_total, back.d_y, back.d_x, back.d_norm, *of_weights, sums
        library.call("multi_head_attention_backward", _Backward(way, *map(native.address, tensors)))
        return *back.gradients(), *of_weights, None, None


def _native(x: Tensor, update: Tensor | None, *others: Any) -> Both:
    found = _Native.apply(x, update, *others)
    return (x, found) if update is None else found


def _serves(*inputs: Any) -> bool:
    """Only where one pass of C++ is faster than products by MKL and attention between them."""
    x, update, norm, _, q, k, v, out, size, _ = inputs
    if not (
        stream.readable(x, update, norm) and all(one.dim() == 2 and native.readable(one) for one in (q, k, v, out))
    ):
        return False
    fit = x.shape[-1] == q.shape[1] == k.shape[1] == v.shape[1] and k.shape == v.shape and q.shape[0] == out.shape[1]
    whole = x.shape[-1] % WHOLE == out.shape[0] % WHOLE == q.shape[0] % size == k.shape[0] % size == 0
    fit = fit and whole and size in HEAD_SIZES and q.shape[0] % k.shape[0] == 0
    long = x.dim() == 3 and x.shape[0] >= FEWEST and x.shape[1] >= SHORTEST
    return fit and long and q.numel() <= CACHED


SOURCE = "multi_head_attention.cpp"
BLOCK = 48  # tokens; q, k and v are kept in whole blocks
WHOLE = 16  # columns of x and y are whole registers, on any machine
FEWEST = 8  # sequences; threads share them, and fewer are shared better head by head
CACHED = 1 << 14  # numbers of the weight of q: all four stay in the second-level cache

MULTI_HEAD_ATTENTION = Kernel(
    "multi-head attention", after_exact_norm(_reference), after_norm(_portable), Native(SOURCE, _native, _serves)
)
