"""Hugging Face's models as peers: random weights that make every term count, and float64 from end to end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

VOCAB = 37


class Float64(TorchDispatchMode):
    """Inside this context every float32 tensor that code makes, by conversion or afresh, is float64.

    Hugging Face's models go through float32 in places even where their weights are float64: norms, rotary phases, the
    decays and the inputs of the selective scan, the residual stream. Here the same code runs without these roundings,
    so that it can be compared with float64's own tolerance. Nothing else about the peer changes.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


def random_peer(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A peer in float64 whose weights are no special case: no norm is 1, no matrix so small that its block vanishes."""
    given = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng(devices=[]), Float64():
            torch.manual_seed(seed)
            peer = build().eval()
            with torch.no_grad():
                for name, parameter in peer.named_parameters():
                    if name.endswith(("norm.weight", "layernorm.weight", "norm_f.weight")):
                        parameter.uniform_(0.5, 1.5)
                    elif parameter.ndim == 2 and not name.endswith("A_log"):
                        parameter.normal_(std=parameter.shape[1] ** -0.5)
                    elif name.endswith("conv1d.weight"):
                        parameter.normal_(std=0.6)
                    elif name.endswith(("A_log", ".D")):
                        parameter.add_(torch.randn_like(parameter) * 0.3)
    finally:
        torch.set_default_dtype(given)
    return peer


def random_tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def left_padded(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens and attention mask [B, longest]: sequences of these lengths, padded on the left."""
    tokens = random_tokens(len(lengths), max(lengths), seed)
    mask = torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]
    return tokens * mask, mask.long()


def logits_of(peer: nn.Module, tokens: Tensor, **options: Any) -> Tensor:
    """The peer's logits [B, ℓ, vocab], computed in float64 throughout and from scratch."""
    with torch.no_grad(), Float64():
        return peer(tokens, use_cache=False, **options).logits


def gradients_of(peer: nn.Module, tokens: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Gradients of Σ weights ⊙ logits with respect to the peer's parameters, by name."""
    named = dict(peer.named_parameters())
    with Float64():
        total = (peer(tokens, use_cache=False).logits * weights).sum()
        return dict(zip(named, torch.autograd.grad(total, list(named.values())), strict=True))
