"""The loss of a language model's head without its logits.

loss = 1/n Σ_t (log Σ_v exp z_tv - z_{t, y_t}) with z_t = W x_t. Its gradient needs of the logits only softmax(z_t), and
is taken in the forward pass, a few tokens at a time while their logits are at hand: no more than those are ever held,
and none is computed twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CACHED, RESIDENT = 1 << 19, 1 << 26  # logits held at a time: on a CPU what its cache holds, elsewhere what fills a GPU
SHORTEST = 128  # tokens at a time: each chunk goes over all of W and of its gradient


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, product: torch.dtype, for_x: bool, for_weight: bool
    ) -> Tensor:
        ctx.count, ctx.dtypes = x.shape[0], (x.dtype, weight.dtype)
        real = torch.promote_types(product, torch.float32)
        x, weight = x.to(product), weight.to(product)
        rows = max(SHORTEST, (CACHED if x.device.type == "cpu" else RESIDENT) // weight.shape[0])
        total = torch.zeros((), dtype=real, device=x.device)
        d_x = torch.empty_like(x) if for_x else None
        d_weight = torch.zeros_like(weight, dtype=real) if for_weight else None
        for start in range(0, x.shape[0], rows):
            part, wanted = x[start : start + rows], targets[start : start + rows, None]
            logits = (part @ weight.t()).to(real)
            # Relative to the greatest nothing overflows, and the sum of the exponentials is at least 1.
            logits -= logits.amax(1, keepdim=True)
            own = logits.gather(1, wanted)
            sums = logits.exp_().sum(1, keepdim=True)
            total += (sums.log() - own).sum()
            if not for_x and not for_weight:
                continue
            logits /= sums
            d_logits = logits.scatter_add_(1, wanted, torch.full_like(own, -1.0)).to(product)
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
        return d_x, d_weight, None, None, None, None


def head_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits W x_t for targets y_t, in float32 or better; products in autocast's dtype.

    x: [n, d]; weight W: [vocab, d]; targets: [n] int64. Memory beside the inputs and their gradients does not grow with
    n · vocab. Differentiable once.
    """
    kind = x.device.type
    product = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    if x.dtype is torch.float64:  # as autocast has it
        product = x.dtype
    differentiate = torch.is_grad_enabled()
    with torch.autocast(kind, enabled=False):
        return _HeadCrossEntropy.apply(
            x, weight, targets, product, differentiate and x.requires_grad, differentiate and weight.requires_grad
        )
