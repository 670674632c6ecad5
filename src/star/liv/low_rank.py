"""Low-rank token mixing: attention in all its nonlinearities and sparsities (A.6.2, classes SA-1 to SA-4)."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from star.genome import LivClass, Nonlinearity, Sparsity
from star.liv.featurizer import Featurizer
from star.liv.kernels.attention import causal_attention
from star.liv.kernels.linear_attention import linear_attention
from star.liv.kernels.projections import without_autocast
from star.liv.kernels.rotary import rotate
from star.liv.kernels.sdpa import dot_product_attention
from star.liv.maps import activate
from star.liv.mixer import Features
from star.liv.sizes import mixing_heads
from star.liv.state import Call, OperatorState, Slot, append, replace, slide


class LowRankMixer(nn.Module):
    """T_ij = σ(q_i · k_j / √h) for j ≤ i, applied to v head by head; h is the head size.

    Softmax is attention. Without a nonlinearity T has rank h: linear attention, a running sum of k ⊗ v. ReLU and swish
    act on each score. All but softmax average over the visible positions, so that outputs do not grow with length.
    A band lets position i see the `window` tokens that end with it, blocks those of its own block of `window` tokens;
    both take time linear in ℓ and keep `window` - 1 tokens. q and k carry rotary phases where h is even.
    """

    def __init__(self, row: LivClass, width: int) -> None:
        super().__init__()
        self.nonlinearity = row.operator.nonlinearity
        self.sparsity = row.operator.sparsity
        self.window = row.window
        self.heads = mixing_heads(row, width)
        self.kv_heads = self.heads // row.groups["k"].repeat
        self.size = width // self.heads * row.groups["q"].expansion
        self.value_size = width // self.heads * row.groups["v"].expansion
        self.channels = self.heads * self.value_size

    remembered = frozenset({"k", "v"})

    @property
    def recurrent(self) -> bool:
        """Whether the past is kept as a running sum instead of as keys and values."""
        return self.nonlinearity is Nonlinearity.NONE and self.sparsity is Sparsity.NONE

    def slots(self, max_length: int, taken: frozenset[str]) -> list[Slot]:
        if self.recurrent:
            return [Slot("kv", (self.kv_heads, self.size, self.value_size), accumulated=True)]
        whole = self.sparsity is Sparsity.NONE
        length = max_length if whole else min(max_length, self.window - 1)
        return [
            Slot(name, (length, self.kv_heads, size), positional=whole)
            for name, size in (("k", self.size), ("v", self.value_size))
            if name not in taken and length
        ]

    def prepare(self, features: Features, call: Call, state: OperatorState | None) -> Features:
        """Split into heads; with a state also rotated, and k and v of all that is kept and of this chunk. Without a
        state rotating is left to whoever uses q and k, because the attention kernel does it on the way."""
        sizes = {"q": self.size, "k": self.size, "v": self.value_size}
        prepared = {name: feature.unflatten(-1, (-1, sizes[name])) for name, feature in features.items()}
        if state is not None:
            prepared |= self._rotated(prepared, call)
            for name in ("k", "v"):
                if name in prepared and name in state:
                    prepared[name] = self._remember(state, name, call.position, prepared[name])
        return prepared

    @property
    def rotary(self) -> bool:
        return self.size % 2 == 0

    def _rotated(self, features: Features, call: Call) -> Features:
        """Those of q and k that are there, turned by their positions."""
        names = features.keys() & {"q", "k"} if self.rotary else ()
        return features | {name: rotate(features[name], call.position) for name in names}

    def _remember(self, state: OperatorState, name: str, position: int, chunk: Tensor) -> Tensor:
        if self.sparsity is Sparsity.NONE:
            return append(state, name, position, chunk)
        return torch.cat([slide(state, name, position, chunk).to(chunk.dtype), chunk], dim=1)

    def materialize(self, x: Tensor, features: Features, featurizer: Featurizer, call: Call) -> Tensor:
        features = self._rotated(features, call)  # as for every call without a state
        q, k = (features[name].transpose(1, 2) for name in ("q", "k"))
        k = k.to(q.dtype).repeat_interleave(self.heads // self.kv_heads, dim=1)
        scores = (q @ k.transpose(-1, -2)).to(torch.promote_types(q.dtype, torch.float32)) / sqrt(self.size)
        i = torch.arange(x.shape[1], device=x.device)[:, None]
        j = i.t()
        mask = j <= i
        if self.sparsity is Sparsity.BANDED:
            mask = mask & (j > i - self.window)
        elif self.sparsity is Sparsity.BLOCK_DIAGONAL:
            mask = mask & (j // self.window == i // self.window)
        if self.nonlinearity is Nonlinearity.SOFTMAX:
            return scores.masked_fill(~mask, float("-inf")).softmax(-1)
        return activate(scores, self.nonlinearity) * self._average(mask, scores.dtype)

    def content(self, x: Tensor, features: Features) -> Tensor:
        return features["v"].repeat_interleave(self.heads // self.kv_heads, dim=2).flatten(-2)

    def forward(
        self, x: Tensor, features: Features, featurizer: Featurizer, call: Call, state: OperatorState | None
    ) -> Tensor:
        position = None  # of the first token, where the attention kernel rotates
        if state is None and self.rotary:
            if self._unmasked(call):
                position = call.position
            else:
                features = self._rotated(features, call)
        q, k, v = (features[name].transpose(1, 2) for name in ("q", "k", "v"))  # B L H h -> B H L h
        k, v = k.to(q.dtype), v.to(q.dtype)
        if self.sparsity is not Sparsity.NONE:
            y = self._windowed(q, k, v, call)
        elif self.recurrent:
            y = self._linear(q, k, v, call, state)
        else:
            y = self._whole(q, k, v, call, position)
        return y.transpose(1, 2).flatten(-2)

    def advance(self, x: Tensor, features: Features, featurizer: Featurizer, call: Call, state: OperatorState) -> None:
        """Keys and values are kept by `prepare` already; a running sum is not."""
        if self.recurrent:
            k, v = (features[name].to(state["kv"].dtype).transpose(1, 2) for name in ("k", "v"))
            replace(state, "kv", state["kv"] + k.transpose(-1, -2) @ v)

    @property
    def softmax_of_all(self) -> bool:
        """Whether each token looks at all of the past, by softmax."""
        return self.nonlinearity is Nonlinearity.SOFTMAX and self.sparsity is Sparsity.NONE

    def _unmasked(self, call: Call) -> bool:
        return self.softmax_of_all and call.valid is None

    def _whole(self, q: Tensor, k: Tensor, v: Tensor, call: Call, position: int | None) -> Tensor:
        """Every query sees all real tokens up to itself. `position` as for `causal_attention`."""
        length, keys = q.shape[2], k.shape[2]
        if self._unmasked(call) and (length == keys or length == 1):
            if length == keys:
                return causal_attention(q, k, v, position)
            return dot_product_attention(q, k, v)
        j = torch.arange(keys, device=q.device)
        i = j[keys - length :, None]
        # A padding query sees itself: no softmax row may be empty.
        mask = (j <= i) & call.real(keys, length, q.device)[:, None, :] | (j == i)
        return self._attend(q, k, v, mask.unsqueeze(1))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """q: [B, H, ℓ, h]; k, v: [B, kv heads, m, ·]; mask: [1 or B, 1, ℓ, m]."""
        if self.nonlinearity is Nonlinearity.SOFTMAX:
            return dot_product_attention(q, k, v, mask)
        k, v = (tensor.repeat_interleave(self.heads // self.kv_heads, dim=1) for tensor in (k, v))
        scores = activate(q @ k.transpose(-1, -2) / sqrt(self.size), self.nonlinearity)
        return (scores * self._average(mask, scores.dtype)) @ v

    @staticmethod
    def _average(mask: Tensor, dtype: torch.dtype) -> Tensor:
        """Each row of a mask divided by what it lets through; counted and divided in float32 or better."""
        mask = mask.to(torch.promote_types(dtype, torch.float32))
        return (mask / mask.sum(-1, keepdim=True)).to(dtype)

    def _windowed(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        """Queries in blocks of `window`, each against its own block of keys and the one before, which hold all that a
        band, or a block that starts anywhere, can reach. k and v may start before this chunk."""
        window, length, keys = self.window, q.shape[2], k.shape[2]
        lead, back = window - (keys - length), -length % window  # one whole window of keys before the first query
        k, v = (functional.pad(tensor, (0, 0, lead, back)) for tensor in (k, v))
        q = functional.pad(q, (0, 0, 0, back)).unflatten(2, (-1, window))
        k, v = (tensor.unfold(2, 2 * window, window).transpose(-1, -2) for tensor in (k, v))  # B H n 2w h
        mask = self._window_mask(length, lead, back, keys, call, q.device)
        batch, count = q.shape[0], q.shape[2]
        q, k, v = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (q, k, v))  # (B n) H · h
        y = self._attend(q, k, v, mask.expand(batch, -1, -1, -1).flatten(0, 1).unsqueeze(1))
        return y.unflatten(0, (batch, count)).transpose(1, 2).flatten(2, 3)[:, :, :length]

    def _window_mask(self, length: int, lead: int, back: int, keys: int, call: Call, device: torch.device) -> Tensor:
        """[1 or B, blocks, window, 2 window]."""
        window = self.window
        real = functional.pad(call.real(keys, length, device), (lead, back)).unfold(1, 2 * window, window)
        i = torch.arange(window, 2 * window, device=device)[:, None]
        j = torch.arange(2 * window, device=device)
        mask = (j <= i) & (j > i - window) & real[:, :, None, :]
        if self.sparsity is Sparsity.BLOCK_DIAGONAL:
            inside = functional.pad(call.within_block(window, length, length, device), (0, back)).unflatten(
                1, (-1, window)
            )
            mask = mask & (i - j <= inside[..., None])
        return mask | (j == i)

    def _linear(self, q: Tensor, k: Tensor, v: Tensor, call: Call, state: OperatorState | None) -> Tensor:
        """With all of the past, in time linear in ℓ."""
        given, real = q.dtype, torch.promote_types(q.dtype, torch.float32)
        length, repeats = q.shape[2], self.heads // self.kv_heads
        with without_autocast(q):
            q, k, v = (tensor.to(real) for tensor in (q, k, v))
            count = call.counts(length, q.device).to(real)[:, None, :, None]
            q = q / (count * sqrt(self.size))
            k_each, v_each = (k, v) if repeats == 1 else (t.repeat_interleave(repeats, dim=1) for t in (k, v))
            y = linear_attention(q, k_each, v_each)
            if state is not None:
                past = state["kv"].to(real)
                y = y + q @ past.repeat_interleave(repeats, dim=1)
                replace(state, "kv", past + k.transpose(-1, -2) @ v)  # last: it may overwrite `past`
            return y.to(given)
