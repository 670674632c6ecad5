"""Resampling token mixing: the Deformer (classes Deformer-1 and Deformer-2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from star.genome import LivClass
from star.liv.featurizer import Featurizer
from star.liv.mixer import Features
from star.liv.shift import bounded_shift, resampled
from star.liv.sizes import inner_width, mixing_heads
from star.liv.state import Call, OperatorState, Slot, slide


class ResamplingMixer(nn.Module):
    """y_t = g_t ⊙ v(t - s_t): the value read s_t tokens ago, between tokens by linear interpolation, channel by channel
    (or head by head). T_ij = g_i max(0, 1 - |i - s_i - j|).

    Shifts lie between 0 and the window, so nothing ahead is read and decoding keeps `window` values.
    """

    def __init__(self, row: LivClass, width: int) -> None:
        super().__init__()
        self.channels = inner_width(row, width)
        self.repeat = self.channels // mixing_heads(row, width)
        self.window = row.window

    remembered = frozenset({"v"})

    def slots(self, max_length: int, taken: frozenset[str]) -> list[Slot]:
        return [] if "v" in taken else [Slot("v", (min(self.window, max_length), self.channels))]

    def prepare(self, features: Features, call: Call, state: OperatorState | None) -> Features:
        """v with what is kept of it; shifts of every channel."""
        prepared = dict(features)
        if state is not None and "v" in features:
            chunk = features["v"]
            prepared["v"] = torch.cat([slide(state, "v", call.position, chunk).to(chunk.dtype), chunk], dim=1)
        if "s" in features:
            shift = bounded_shift(features["s"], self.window)
            prepared["s"] = shift if self.repeat == 1 else shift.repeat_interleave(self.repeat, dim=-1)
        return prepared

    def materialize(self, x: Tensor, features: Features, featurizer: Featurizer, call: Call) -> Tensor:
        g, s = (features[name].transpose(1, 2) for name in ("g", "s"))  # B d ℓ
        positions = torch.arange(x.shape[1], device=x.device)
        lag = (positions[:, None] - positions).to(s.dtype)
        return g.unsqueeze(-1) * (1 - (lag - s.unsqueeze(-1)).abs()).clamp(min=0) * (lag >= 0)

    def content(self, x: Tensor, features: Features) -> Tensor:
        return features["v"]

    def forward(
        self, x: Tensor, features: Features, featurizer: Featurizer, call: Call, state: OperatorState | None
    ) -> Tensor:
        return features["g"] * resampled(features["v"], x.shape[1], features["s"], self.window)

    def advance(self, x: Tensor, features: Features, featurizer: Featurizer, call: Call, state: OperatorState) -> None:
        """Nothing is left to do: `prepare` has kept v."""
