"""PyTorch's softmax attention, with the products inside of it always left to the default library.

On the CPU it multiplies block by block, forward and backward, and each small product is a call of its own. Where
products go to oneDNN (see `matmul`), these calls cost more than they compute: with heads of 16 channels attention took
3 to 4 times as long. What torch.compile compiles is left as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from star.liv.kernels.matmul import by_onednn, goes_to_onednn


def dot_product_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, causal: bool = False
) -> Tensor:
    """q: [B, H, ℓ, h]; k, v: [B, kv heads, m, ·], each head of them for several of q → [B, H, ℓ, ·].

    `mask`: bool, true where a query sees a key, and broadcast to [B, H, ℓ, m].
    """
    if q.device.type != "cpu" or torch.compiler.is_compiling() or not goes_to_onednn():
        return _attention(q, k, v, mask, causal)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (q, k, v)):
        attended: Tensor = _ByDefaultLibrary.apply(q, k, v, mask, causal)
        return attended
    with by_onednn(False):
        return _attention(q, k, v, mask, causal)


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    grouped = q.shape[1] > k.shape[1]
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)


class _ByDefaultLibrary(torch.autograd.Function):
    """Attention as a graph of its own, so that its way back too runs inside of a block."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        q, k, v = (tensor.detach().requires_grad_(tensor.requires_grad) for tensor in (q, k, v))
        with by_onednn(False), torch.enable_grad():
            y = _attention(q, k, v, mask, causal)
        ctx.save_for_backward(q, k, v, y)
        return y.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, y = ctx.saved_tensors
        with by_onednn(False):
            gradients = iter(
                torch.autograd.grad(y, [tensor for tensor in inputs if tensor.requires_grad], d_y, retain_graph=True)
            )
        return *(next(gradients) if tensor.requires_grad else None for tensor in inputs), None, None
