"""A gated unit with its three linear maps (SwiGLU, Shazeer 2020), for each token:

    g = W_g n,    u = W_u n,    y = W_d (swish(g) ⊙ u)

for tokens n, or the norm of a residual stream. A block of tokens after the other goes through all of it. g and u are
kept; swish(g) ⊙ u, which autograd would keep too, is computed again backward, block by block, and so are the gradients
of g and u: neither is ever there for all tokens.

Natively, weights that stay in the cache are multiplied by C++, too, because MKL is slower at products with so few
columns. Then n, g and u are not kept either, and what comes between two products is done while a number is in a
register.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from star.liv.kernels import gated_unit, native, stream
from star.liv.kernels.choice import Kernel, Native
from star.liv.kernels.stream import Both, Stream, StreamBackward, StreamForward, after_exact_norm, after_norm

# Tokens; enough for products at full speed, and whatever the number of threads, so that it rounds alike.
BLOCK, BLOCK_OF_HALVES = 512, 2048


def gated_mlp(
    x: Tensor, update: Tensor | None, norm: Tensor | None, epsilon: float, gate: Tensor, up: Tensor, down: Tensor
) -> Both:
    """x, update: [B, ℓ, d], norm: [d]; gate, up: [h, d]; down: [d', h] → x + update and y [B, ℓ, d'], in the weights'
    dtype.

    See `star.liv.kernels.stream` for the first four. Differentiable once; autocast does not reach into it.
    """
    both: Both = GATED_MLP(x, update, norm, epsilon, gate, up, down)
    return both


def _reference(n: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """The equation in float64."""
    g, u = n @ gate.double().t(), n @ up.double().t()
    return (g * torch.sigmoid(g) * u) @ down.double().t()


class _Elementwise(NamedTuple):
    """How `product(gate, up, y)` and `gradients(gate, up, d_y, y, d_gate, d_up)` of a block [n, h] are computed; the
    latter gives y again, and may overwrite d_y with d_up."""

    product: Any
    gradients: Any


def _product(gate: Tensor, up: Tensor, y: Tensor) -> None:
    torch.ops.aten.silu.out(gate, out=y)
    y.mul_(up)


def _gradients(gate: Tensor, up: Tensor, d_y: Tensor, y: Tensor, d_gate: Tensor, d_up: Tensor) -> None:
    torch.mul(d_y, up, out=d_gate)
    torch.ops.aten.silu_backward.grad_input(d_gate, gate, grad_input=d_gate)
    torch.ops.aten.silu.out(gate, out=y)
    torch.mul(d_y, y, out=d_up)
    y.mul_(up)


PORTABLE = _Elementwise(_product, _gradients)
NATIVE = _Elementwise(gated_unit.native_product, gated_unit.native_gradients)


class _Sizes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("tokens", "threads", "inputs", "hidden", "outputs"))


class _Forward(ctypes.Structure):
    _fields_ = (
        ("size", _Sizes),
        ("stream", Stream),
        *((name, ctypes.c_void_p) for name in ("gate", "up", "down", "y")),
    )


class _Backward(ctypes.Structure):
    _fields_ = (
        ("size", _Sizes),
        ("stream", Stream),
        *((name, ctypes.c_void_p) for name in ("gate", "up", "down", "d_total", "d_y")),
        *((name, ctypes.c_void_p) for name in ("d_x", "d_norm", "d_gate", "d_up", "d_down", "sums")),
    )


class _InCache(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, update: Tensor | None, norm: Tensor | None, epsilon: float, *weights: Tensor
    ) -> Any:
        begun = StreamForward(ctx, x, update, norm, epsilon)
        gate, up, down = (weight.contiguous() for weight in weights)
        y = x.new_empty(*x.shape[:-1], down.shape[0])
        count = x.numel() // x.shape[-1]
        ctx.size = _Sizes(count, torch.get_num_threads(), *reversed(gate.shape), down.shape[0])
        record = _Forward(ctx.size, begun.record, *map(native.address, (gate, up, down, y)))
        native.library(SOURCE).call("gated_mlp_forward", record)
        ctx.save_for_backward(*begun.kept, gate, up, down)
        return begun.outputs(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        total, norm, inverse, gate, up, down = ctx.saved_tensors
        back = StreamBackward(ctx, (total, norm, inverse), gradients)
        weights = (gate, up, down)
        if back.d_y is None:
            return *back.gradients(), None, None, None
        of_weights = tuple(
            torch.empty_like(weight) if wanted else None
            for weight, wanted in zip(weights, ctx.needs_input_grad[4:], strict=True)
        )
        library = native.library(SOURCE)
        sums = gate.new_zeros(library.number("gated_mlp_sums", ctx.size))  # of weights' gradients
        tensors = (*weights, back.d_total, back.d_y, back.d_x, back.d_norm, *of_weights, sums)
        library.call("gated_mlp_backward", _Backward(ctx.size, back.record, *map(native.address, tensors)))
        return *back.gradients(), *of_weights


class _Blocks(torch.autograd.Function):
    """x: [n, d]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, up: Tensor, down: Tensor, elementwise: _Elementwise) -> Tensor:
        g, u = (x.new_empty(x.shape[0], weight.shape[0]) for weight in (gate, up))
        y = x.new_empty(x.shape[0], down.shape[0])
        blocks = _blocks(x)
        buffer = x.new_empty(blocks[0].stop, gate.shape[0])
        for rows in blocks:
            product = buffer[: rows.stop - rows.start]
            torch.mm(x[rows], gate.t(), out=g[rows])
            torch.mm(x[rows], up.t(), out=u[rows])
            elementwise.product(g[rows], u[rows], product)
            torch.mm(product, down.t(), out=y[rows])
        ctx.save_for_backward(x, gate, up, down, g, u)
        ctx.elementwise = elementwise
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, up, down, g, u = ctx.saved_tensors
        blocks, d_y = _blocks(x), d_y.contiguous()
        wanted = ctx.needs_input_grad
        d_x = torch.empty_like(x) if wanted[0] else None
        sums = x.dtype if len(blocks) == 1 else torch.promote_types(x.dtype, torch.float32)  # over blocks
        of_weights = tuple(
            torch.zeros_like(weight, dtype=sums) if needed else None
            for weight, needed in zip((gate, up, down), wanted[1:4], strict=True)
        )
        buffers = [x.new_empty(blocks[0].stop, gate.shape[0]) for _ in range(3)]
        for rows in blocks:
            product, d_g, d_u = (buffer[: rows.stop - rows.start] for buffer in buffers)
            if any(wanted[:3]):
                torch.mm(d_y[rows], down, out=d_u)  # the gradient of the product, until that of u takes its place
                ctx.elementwise.gradients(g[rows], u[rows], d_u, product, d_g, d_u)
            else:
                ctx.elementwise.product(g[rows], u[rows], product)
            for total, left, right in zip(of_weights, (d_g, d_u, d_y[rows]), (x[rows], x[rows], product), strict=True):
                if total is not None:
                    _add_product(total, left.t(), right)
            if d_x is not None:
                torch.mm(d_g, gate, out=d_x[rows]).addmm_(d_u, up)
        return d_x, *(None if total is None else total.to(x.dtype) for total in of_weights), None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b; a product in half precision is rounded, the sum is not."""
    if total.dtype is a.dtype:
        total.addmm_(a, b)
    else:
        total.add_(a @ b)


def _blocks(x: Tensor) -> list[slice]:
    """Of tokens, at least one. On GPUs all are one: there is no cache to stay in."""
    count = x.shape[0]
    step = (BLOCK_OF_HALVES if x.dtype is native.HALF else BLOCK) if x.device.type == "cpu" else max(1, count)
    return [slice(start, min(start + step, count)) for start in range(0, max(1, count), step)]


def _portable(n: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return _block_by_block(n, gate, up, down, PORTABLE)


def _blocks_natively(n: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    usable = native.library(gated_unit.SOURCE).problem is None
    return _block_by_block(n, gate, up, down, NATIVE if usable else PORTABLE)


def _block_by_block(n: Tensor, gate: Tensor, up: Tensor, down: Tensor, elementwise: _Elementwise) -> Tensor:
    y: Tensor = _Blocks.apply(n.flatten(0, -2), gate, up, down, elementwise)
    return y.view(*n.shape[:-1], down.shape[0])


def _native(
    x: Tensor, update: Tensor | None, norm: Tensor | None, epsilon: float, gate: Tensor, up: Tensor, down: Tensor
) -> Both:
    if not in_cache(x, gate, down):
        return after_norm(_blocks_natively)(x, update, norm, epsilon, gate, up, down)
    found = _InCache.apply(x, update, norm, epsilon, gate, up, down)
    return (x, found) if update is None else found


def in_cache(x: Tensor, gate: Tensor, down: Tensor) -> bool:
    """Whether one pass of C++ over these tokens is there, and faster than products by a library."""
    hidden = -(-gate.shape[0] // WHOLE) * WHOLE
    whole = gate.shape[1] % WHOLE == down.shape[0] % WHOLE == 0
    return (
        gate.dtype is torch.float32
        and whole
        and hidden * max(gate.shape[1], down.shape[0]) <= CACHED
        and x.numel() >= FEWEST * x.shape[-1]
    )


def _serves(
    x: Tensor, update: Tensor | None, norm: Tensor | None, epsilon: float, gate: Tensor, up: Tensor, down: Tensor
) -> bool:
    fit = x.shape[-1] == gate.shape[1] and gate.shape == up.shape and gate.shape[0] == down.shape[1]
    floats = gate.dtype is native.HALF or stream.readable(x, update, norm)  # the norm before halves is another kernel
    return fit and floats and native.readable_alike(gate, up, down)


SOURCE = "gated_mlp.cpp"
FEWEST = 64  # tokens; weights are laid out anew in every call
WHOLE = 16  # columns of x and y are whole registers, on any machine
CACHED = 1 << 15  # numbers of each weight: all three stay in the second-level cache

GATED_MLP = Kernel("gated MLP", after_exact_norm(_reference), after_norm(_portable), Native(SOURCE, _native, _serves))
