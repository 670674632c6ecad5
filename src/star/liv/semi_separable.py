"""Sequentially semi-separable token mixing: input-varying linear recurrences (A.6.2, classes Rec-1 and Rec-2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from star.genome import LivClass, Sparsity
from star.liv.featurizer import Featurizer
from star.liv.kernels.selective_scan import selective_scan
from star.liv.maps import undecayed
from star.liv.mixer import Features
from star.liv.sizes import inner_width, mixing_heads
from star.liv.state import Call, OperatorState, Slot, replace


class SemiSeparableMixer(nn.Module):
    """T_ij = C_i (Π_{i ≥ s > j} exp(Δ_s A)) Δ_j B_j + D δ_ij, applied to v, then gated by z: Mamba (Gu & Dao 2023).

    A = -exp(A_log) with A_log = log 1 … N for each channel, or each head where channels are grouped; D starts at 1.
    """

    def __init__(self, row: LivClass, width: int) -> None:
        super().__init__()
        self.channels = inner_width(row, width)
        self.state_size = row.groups["B"].expansion
        self.heads = mixing_heads(row, width)
        self.window = row.window if row.operator.sparsity is Sparsity.BLOCK_DIAGONAL else None
        self.A_log = undecayed(nn.Parameter(torch.empty(self.heads, self.state_size)))
        self.D = undecayed(nn.Parameter(torch.empty(self.channels)))
        self.reset_parameters()

    remembered = frozenset({"v", "delta", "B"})

    def reset_parameters(self) -> None:
        with torch.no_grad():
            ramp = torch.arange(1, self.state_size + 1, dtype=torch.float32, device="cpu")  # on meta it is slow
            self.A_log.copy_(ramp.log().expand_as(self.A_log))
            self.D.fill_(1.0)

    def slots(self, max_length: int, taken: frozenset[str]) -> list[Slot]:
        return [Slot("h", (self.state_size, self.channels), accumulated=True)]

    def prepare(self, features: Features, call: Call, state: OperatorState | None) -> Features:
        return features

    def _steps(self, features: Features, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Δ before its softplus [B, ℓ, d] and A [d, N], of heads repeated for their channels."""
        raw = features["delta"].to(dtype)
        decay = -torch.exp(self.A_log.to(dtype))
        repeats = self.channels // self.heads
        if repeats > 1:
            raw, decay = raw.repeat_interleave(repeats, dim=-1), decay.repeat_interleave(repeats, dim=0)
        return raw, decay

    def materialize(self, x: Tensor, features: Features, featurizer: Featurizer, call: Call) -> Tensor:
        # Differences of sums of Δ: exact enough in float64 only, and never positive where j ≤ i.
        raw, decay = self._steps(features, torch.float64)
        delta = functional.softplus(raw)
        b, c = features["B"].double(), features["C"].double()
        length = x.shape[1]
        total = delta.cumsum(1)
        span = total[:, :, None] - total[:, None]  # B ℓ ℓ d
        positions = torch.arange(length, device=x.device)
        seen = positions[:, None] >= positions
        if self.window is not None:
            seen &= positions[:, None] // self.window == positions // self.window
        exponent = span.masked_fill(~seen[..., None], 0.0)[..., None] * decay  # B ℓ ℓ d N
        matrix = torch.einsum("bin,bijdn,bjn->bdij", c, exponent.exp() * seen[..., None, None], b)
        matrix = matrix * delta.transpose(1, 2)[:, :, None] + torch.diag_embed(
            self.D.double()[:, None].expand(-1, length)
        )
        gated = features["z"].double().transpose(1, 2)[..., None] * matrix
        return gated.to(torch.promote_types(x.dtype, torch.float32))

    def content(self, x: Tensor, features: Features) -> Tensor:
        return features["v"]

    def forward(
        self, x: Tensor, features: Features, featurizer: Featurizer, call: Call, state: OperatorState | None
    ) -> Tensor:
        v = features["v"]
        return self._scanned(v, features, features["C"], call, state, skip=self.D, gate=features["z"]).to(v.dtype)

    def advance(self, x: Tensor, features: Features, featurizer: Featurizer, call: Call, state: OperatorState) -> None:
        self._scanned(features["v"], features, torch.zeros_like(features["B"]), call, state)

    def _scanned(
        self,
        v: Tensor,
        features: Features,
        c: Tensor,
        call: Call,
        state: OperatorState | None,
        skip: Tensor | None = None,
        gate: Tensor | None = None,
    ) -> Tensor:
        raw, decay = self._steps(features, torch.promote_types(v.dtype, torch.float32))
        h = v.new_zeros((v.shape[0], self.state_size, self.channels), dtype=raw.dtype) if state is None else state["h"]
        keep = None
        if self.window is not None:
            keep = call.within_block(self.window, v.shape[1], v.shape[1], v.device) != 0
        y, h = selective_scan(v, raw, decay, features["B"], c, h, keep, skip=skip, gate=gate, raw=True)
        if state is not None:
            replace(state, "h", h)
        return y
