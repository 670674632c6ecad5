"""Low-rank token mixing: attention in all its nonlinearities (A.6.2, classes SA-1 to SA-4)."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from star.genome import LivClass, Nonlinearity, Sparsity
from star.liv.featurizer import Featurizer, activate
from star.liv.kernels.rotary import rotate
from star.liv.mixer import Features
from star.liv.sizes import mixing_heads
from star.liv.state import Call, OperatorState, Slot, append, replace

LINEAR_CHUNK = 64


class LowRankMixer(nn.Module):
    """T_ij = σ(q_i · k_j / √h) for j ≤ i, applied to v head by head; h is the head size.

    Softmax is attention. Without a nonlinearity T has rank h: linear attention, a running sum of k ⊗ v. ReLU and swish
    act on each score. All but softmax average over the visible positions, so that outputs do not grow with length.
    q and k carry rotary phases where h is even.
    """

    def __init__(self, row: LivClass, width: int) -> None:
        super().__init__()
        self.nonlinearity = row.operator.nonlinearity
        self.sparsity = row.operator.sparsity
        self.window = row.window
        self.heads = mixing_heads(row, width)
        self.kv_heads = self.heads // row.groups["k"].repeat
        self.size = width // self.heads
        self.channels = width

    @property
    def recurrent(self) -> bool:
        """Whether the past is kept as a running sum instead of as keys and values."""
        return self.nonlinearity is Nonlinearity.NONE and self.sparsity is Sparsity.NONE

    def slots(self, max_length: int, taken: frozenset[str]) -> list[Slot]:
        if self.recurrent:
            return [Slot("kv", (self.kv_heads, self.size, self.size), accumulated=True)]
        return [Slot(name, (max_length, self.kv_heads, self.size)) for name in ("k", "v") if name not in taken]

    def prepare(self, features: Features, call: Call, state: OperatorState | None) -> Features:
        """Split into heads, rotate; with a state, k and v of everything so far."""
        prepared = {name: feature.unflatten(-1, (-1, self.size)) for name, feature in features.items()}
        if self.size % 2 == 0:
            for name in ("q", "k"):
                if name in prepared:
                    prepared[name] = rotate(prepared[name], call.position)
        if state is not None and not self.recurrent:
            for name in ("k", "v"):
                if name in prepared:
                    prepared[name] = append(state, name, call.position, prepared[name])
        return prepared

    def materialize(self, x: Tensor, features: Features, featurizer: Featurizer, call: Call) -> Tensor:
        q, k = (features[name].transpose(1, 2) for name in ("q", "k"))
        k = k.to(q.dtype).repeat_interleave(self.heads // self.kv_heads, dim=1)
        mask = self._mask(q.shape[2], call, q.device)
        scores = (q @ k.transpose(-1, -2)).to(torch.promote_types(q.dtype, torch.float32)) / sqrt(self.size)
        if self.nonlinearity is Nonlinearity.SOFTMAX:
            return scores.masked_fill(~mask, float("-inf")).softmax(-1)
        return activate(scores, self.nonlinearity) * (mask / mask.sum(-1, keepdim=True))

    def content(self, x: Tensor, features: Features) -> Tensor:
        return features["v"].repeat_interleave(self.heads // self.kv_heads, dim=2).flatten(-2)

    def forward(
        self, x: Tensor, features: Features, featurizer: Featurizer, call: Call, state: OperatorState | None
    ) -> Tensor:
        q, k, v = (features[name].transpose(1, 2) for name in ("q", "k", "v"))  # B L H h -> B H L h
        k, v = k.to(q.dtype), v.to(q.dtype)
        if self.nonlinearity is Nonlinearity.SOFTMAX:
            y = self._softmax(q, k, v, call)
        elif self.recurrent:
            y = self._linear(q, k, v, call, state)
        else:
            y = self._scored(q, k, v, call)
        return y.transpose(1, 2).flatten(-2)

    def _softmax(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        length = q.shape[2]
        plain = call.valid is None and self.sparsity is Sparsity.NONE
        causal = plain and call.position == 0
        mask = None if causal or (plain and length == 1) else self._mask(length, call, q.device)
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=self.heads > self.kv_heads
        )

    def _scored(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        mask = self._mask(q.shape[2], call, q.device)
        k, v = (tensor.repeat_interleave(self.heads // self.kv_heads, dim=1) for tensor in (k, v))
        scores = activate(q @ k.transpose(-1, -2) / sqrt(self.size), self.nonlinearity)
        return (scores * (mask / mask.sum(-1, keepdim=True)).to(scores.dtype)) @ v

    def _mask(self, length: int, call: Call, device: torch.device) -> Tensor:
        """[1 or B, 1, ℓ, position + ℓ]: causality, padding and the sparsity of the genome."""
        mask = call.visible(length, device)
        keys = torch.arange(call.position + length, device=device)
        queries = keys[call.position :, None]
        if self.sparsity is Sparsity.BANDED:
            mask = mask & (keys > queries - self.window)
        elif self.sparsity is Sparsity.BLOCK_DIAGONAL:
            mask = mask & (keys // self.window == queries // self.window)
        return mask.unsqueeze(1)

    def _linear(self, q: Tensor, k: Tensor, v: Tensor, call: Call, state: OperatorState | None) -> Tensor:
        """Chunk by chunk: a masked product inside a chunk, the running sum between chunks. Linear in ℓ."""
        given, real = q.dtype, torch.promote_types(q.dtype, torch.float32)
        length, repeats = q.shape[2], self.heads // self.kv_heads
        chunk = min(LINEAR_CHUNK, length)
        padding = -length % chunk
        with torch.autocast(q.device.type, enabled=False):
            # B H (C c) h -> B H C c h
            q, k, v = (functional.pad(t.to(real), (0, 0, 0, padding)).unflatten(2, (-1, chunk)) for t in (q, k, v))
            sums = k.transpose(-1, -2) @ v
            before = sums.cumsum(2) - sums
            if state is not None:
                before = before + state["kv"].to(real).unsqueeze(2)
                replace(state, "kv", before[:, :, -1] + sums[:, :, -1])
            k, v, before = (tensor.repeat_interleave(repeats, dim=1) for tensor in (k, v, before))
            y = (q @ k.transpose(-1, -2)).tril() @ v + q @ before
            count = call.counts(length, q.device).to(real)[:, None, :, None]
            return (y.flatten(2, 3)[:, :, :length] / (count * sqrt(self.size))).to(given)
