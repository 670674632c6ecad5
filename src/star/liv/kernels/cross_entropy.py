"""The loss of a language model's head without its logits:

    loss = 1/n Σ_t (log Σ_v exp z_tv - z_{t, y_t}),    z_t = W x_t

Its gradient needs of the logits only softmax(z_t), and is taken in the forward pass, a few tokens at a time while their
logits are at hand: no more than those are ever held, and none is computed twice. Products are PyTorch's; what is done
with the logits of a few tokens is one pass over them in C++, where that is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from star.liv.kernels import native
from star.liv.kernels.choice import Kernel, Native

CACHED, RESIDENT = 1 << 17, 1 << 26  # logits held at a time: on a CPU what its cache holds, elsewhere what fills a GPU
SHORTEST = 128  # tokens at a time: each chunk goes over all of W and of its gradient
SOURCE = "cross_entropy.cpp"


def head_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits W x_t for targets y_t, in float32 or better; products in autocast's dtype.

    x: [n, d]; weight W: [vocab, d]; targets: [n] int64. Memory beside the inputs and their gradients does not grow with
    n · vocab. Differentiable once. Raises `IndexError` or `RuntimeError` for a target that is not below vocab.
    """
    kind = x.device.type
    product = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    if x.dtype is torch.float64:  # as autocast has it
        product = x.dtype
    with torch.autocast(kind, enabled=False):
        loss: Tensor = HEAD_CROSS_ENTROPY(x, weight, targets, product)
    return loss


def _reference(x: Tensor, weight: Tensor, targets: Tensor, product: torch.dtype) -> Tensor:
    """The equation with all logits, in float64."""
    loss = functional.cross_entropy(x.double() @ weight.double().t(), targets)
    return loss.to(torch.promote_types(product, torch.float32))


#: (logits [m, vocab], targets [m], whether gradients are wanted) → the sum of the cross-entropies; logits become their
#: gradients, or anything.
Rows = Callable[[Tensor, Tensor, bool], Tensor]


def _portable_rows(logits: Tensor, targets: Tensor, gradients: bool) -> Tensor:
    wanted = targets[:, None]
    # Relative to the greatest nothing overflows, and the sum of the exponentials is at least 1.
    logits -= logits.amax(1, keepdim=True)
    own = logits.gather(1, wanted)
    sums = logits.exp_().sum(1, keepdim=True)
    if gradients:
        logits /= sums
        logits.scatter_add_(1, wanted, torch.full_like(own, -1.0))
    return (sums.log() - own).sum()


class _Pass(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "vocab", "threads")),
        *((name, ctypes.c_void_p) for name in ("logits", "targets", "losses")),
        ("gradients", ctypes.c_int64),
    )


def _native_rows(logits: Tensor, targets: Tensor, gradients: bool) -> Tensor:
    assert logits.is_contiguous()  # gradients are written in place
    targets, losses = targets.contiguous(), logits.new_empty(logits.shape[0])
    addresses = map(native.address, (logits, targets, losses))
    done = native.library(SOURCE).number(
        "cross_entropy", _Pass(*logits.shape, torch.get_num_threads(), *addresses, gradients)
    )
    if done < logits.shape[0]:
        raise IndexError(f"target {int(targets[done])} is not from 0 to {logits.shape[1] - 1}")
    return losses.sum()


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        targets: Tensor,
        product: torch.dtype,
        for_x: bool,
        for_weight: bool,
        of_rows: Rows,
    ) -> Tensor:
        ctx.count, ctx.dtypes = x.shape[0], (x.dtype, weight.dtype)
        real = torch.promote_types(product, torch.float32)
        x, weight = x.to(product), weight.to(product)
        rows = max(SHORTEST, (CACHED if x.device.type == "cpu" else RESIDENT) // weight.shape[0])
        total = torch.zeros((), dtype=real, device=x.device)
        d_x = torch.empty_like(x) if for_x else None
        d_weight = torch.zeros_like(weight, dtype=real) if for_weight else None
        for start in range(0, x.shape[0], rows):
            part = x[start : start + rows]
            logits = (part @ weight.t()).to(real)
            total += of_rows(logits, targets[start : start + rows], for_x or for_weight)
            d_logits = logits.to(product)
            if d_x is not None:
                torch.mm(d_logits, weight, out=d_x[start : start + rows])
            if d_weight is not None and product is real:
                d_weight.addmm_(d_logits.t(), part)
            elif d_weight is not None:
                d_weight += d_logits.t() @ part  # the sum over chunks in float32
        ctx.save_for_backward(d_x, d_weight)
        return total / ctx.count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        share = gradient / ctx.count
        d_x, d_weight = (
            None if one is None else (one * share).to(dtype)
            for one, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return d_x, d_weight, None, None, None, None, None


def _applied(x: Tensor, weight: Tensor, targets: Tensor, product: torch.dtype, of_rows: Rows) -> Tensor:
    differentiate = torch.is_grad_enabled()
    loss: Tensor = _HeadCrossEntropy.apply(
        x, weight, targets, product, differentiate and x.requires_grad, differentiate and weight.requires_grad, of_rows
    )
    return loss


def _portable(x: Tensor, weight: Tensor, targets: Tensor, product: torch.dtype) -> Tensor:
    return _applied(x, weight, targets, product, _portable_rows)


def _native(x: Tensor, weight: Tensor, targets: Tensor, product: torch.dtype) -> Tensor:
    return _applied(x, weight, targets, product, _native_rows)


def _serves(x: Tensor, weight: Tensor, targets: Tensor, product: torch.dtype) -> bool:
    single = torch.promote_types(product, torch.float32) is torch.float32
    fit = (
        targets.dtype is torch.int64 and targets.shape == x.shape[:1] and x.device.type == targets.device.type == "cpu"
    )
    return single and fit and x.numel() > 0 and weight.shape[0] > 0


HEAD_CROSS_ENTROPY = Kernel("cross-entropy", _reference, _portable, Native(SOURCE, _native, _serves))
