"""A gated unit with its three linear maps (SwiGLU, Shazeer 2020), for each token:

    g = W_g x,    u = W_u x,    y = W_d (swish(g) ⊙ u)

A block of tokens after the other goes through all of it. g and u are kept; swish(g) ⊙ u, which autograd would keep too,
is computed again backward, block by block, and so are the gradients of g and u: neither is ever there for all tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from star.liv.kernels import gated_unit, native
from star.liv.kernels.choice import Kernel, Native

BLOCK = 512  # tokens; enough for products at full speed, and whatever the number of threads, so that it rounds alike


def gated_mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """x: [B, ℓ, d]; gate, up: [h, d]; down: [d', h], all of one dtype → [B, ℓ, d']. Differentiable once; autocast does
    not reach into it."""
    return GATED_MLP(x, gate, up, down)


def _reference(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """The equation in float64."""
    g, u = x.double() @ gate.double().t(), x.double() @ up.double().t()
    return ((g * torch.sigmoid(g) * u) @ down.double().t()).to(x.dtype)


class _Elementwise(NamedTuple):
    """How `product(gate, up, y)` and `gradients(gate, up, d_y, y, d_gate, d_up)` of a block [n, h] are computed; the
    latter gives y again, and may overwrite d_y with d_up."""

    product: Any
    gradients: Any


def _product(gate: Tensor, up: Tensor, y: Tensor) -> None:
    torch.mul(functional.silu(gate), up, out=y)


def _gradients(gate: Tensor, up: Tensor, d_y: Tensor, y: Tensor, d_gate: Tensor, d_up: Tensor) -> None:
    swish = functional.silu(gate)
    torch.mul(swish, up, out=y)
    torch.ops.aten.silu_backward.grad_input(d_y * up, gate, grad_input=d_gate)
    torch.mul(d_y, swish, out=d_up)


PORTABLE = _Elementwise(_product, _gradients)
NATIVE = _Elementwise(gated_unit.native_product, gated_unit.native_gradients)


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
        d_gate, d_up, d_down = (
            torch.zeros_like(weight) if needed else None
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
            if d_down is not None:
                d_down.addmm_(d_y[rows].t(), product)
            if d_gate is not None:
                d_gate.addmm_(d_g.t(), x[rows])
            if d_up is not None:
                d_up.addmm_(d_u.t(), x[rows])
            if d_x is not None:
                torch.mm(d_g, gate, out=d_x[rows]).addmm_(d_u, up)
        return d_x, d_gate, d_up, d_down, None


def _blocks(x: Tensor) -> list[slice]:
    """Of tokens, at least one. In half precision and on GPUs all are one: sums over blocks would be rounded to it, and
    there is no cache to stay in."""
    count = x.shape[0]
    whole = x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64)
    step = max(1, count) if whole else BLOCK
    return [slice(start, min(start + step, count)) for start in range(0, max(1, count), step)]


def _portable(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return _applied(x, gate, up, down, PORTABLE)


def _native(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return _applied(x, gate, up, down, NATIVE)


def _applied(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, elementwise: _Elementwise) -> Tensor:
    y: Tensor = _Blocks.apply(x.flatten(0, -2), gate, up, down, elementwise)
    return y.view(*x.shape[:-1], down.shape[0])


def _serves(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> bool:
    return all(map(native.readable, (x, gate, up, down)))


GATED_MLP = Kernel("gated MLP", _reference, _portable, Native(gated_unit.SOURCE, _native, _serves))
