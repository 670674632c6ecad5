"""A model small enough to train in a test."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TinyModel(nn.Module):
    """A causal model with everything that training must handle: a tied weight, a normalisation, an undecayed matrix,
    an unused parameter, a buffer that changes, and a random layer.
    """

    def __init__(self, seed: int = 0, dropout: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(257, 16)
        self.norm = nn.LayerNorm(16)
        self.hidden = nn.Linear(16, 16, bias=False)
        self.rates = nn.Parameter(torch.zeros(16, 1))
        self.rates.no_weight_decay = True  # type: ignore[attr-defined]
        self.unused = nn.Parameter(torch.ones(3, 3))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(16, 257, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        self.calls += 1
        x = self.embedding(tokens)
        x = x + self.dropout(self.hidden(self.norm(x)) * self.rates.exp().squeeze(1))
        return self.head(x)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self(tokens).flatten(0, 1).float(), targets.flatten())
