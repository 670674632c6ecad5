"""Liquid state spaces: semi-separable token mixing whose transitions are moved by the input (class S4-2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from star.genome import LivClass, Sparsity
from star.liv.featurizer import Featurizer
from star.liv.kernels.liquid_scan import liquid_scan
from star.liv.kernels.projections import without_autocast
from star.liv.maps import undecayed
from star.liv.mixer import Features
from star.liv.sizes import inner_width, mixing_heads
from star.liv.state import Call, OperatorState, Slot, replace
from star.liv.state_space import Modes, restored, stored

BOUND = 0.9  # of B̄ u, as a share of 1 - |Ā|


class LiquidMixer(nn.Module):
    """x_t = (Ā + B̄ u_t) x_{t-1} + B̄ u_t, y_t = z_t (Re(C x_t) + D u_t) with u = tanh(v): Liquid-S4 (Hasani et al.
    2023), written as the exact causal recurrence.

    Ā = exp(ΔA), and B̄ is parametrised by its bound: B̄ = 0.9 (1 - |Ā|) β / √(1 + |β|²). This is the zero-order hold of
    some B, and keeps |Ā + B̄ u| < 1 and |x| ≤ 9 for every input of any length. Δ, β and C are the groups Δ, B and C.
    """

    def __init__(self, row: LivClass, width: int) -> None:
        super().__init__()
        self.channels = inner_width(row, width)
        self.state_size = row.groups["B"].expansion
        self.heads = mixing_heads(row, width)
        self.window = row.window if row.operator.sparsity is Sparsity.BLOCK_DIAGONAL else None
        self.modes = Modes(row.state_space, self.heads, self.state_size)
        self.D = undecayed(nn.Parameter(torch.empty(self.channels)))
        self.reset_parameters()

    remembered = frozenset({"v"})

    def reset_parameters(self) -> None:
        nn.init.ones_(self.D)

    def slots(self, max_length: int, taken: frozenset[str]) -> list[Slot]:
        return [Slot("h", (self.channels, self.state_size), accumulated=True)]

    def prepare(self, features: Features, call: Call, state: OperatorState | None) -> Features:
        return features

    def sampled(self, featurizer: Featurizer, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Ā, B̄ and C [d, M], of heads repeated for their channels; C has the factor 2 of paired modes."""
        paired = self.modes.paired
        step_size, drive, readout = (featurizer.groups[name] for name in ("delta", "B", "C"))
        decay = torch.exp(step_size().unsqueeze(-1) * self.modes())
        beta = drive.modes(paired)  # type: ignore[operator]
        gain = BOUND * (1 - decay.abs()) * beta / torch.sqrt(1 + beta.abs() ** 2)
        parts = (decay, gain, readout.modes(paired) * (2 if paired else 1))  # type: ignore[operator]
        if paired:
            dtype = dtype.to_complex()
        repeat = self.channels // self.heads
        first, second, third = (part.to(dtype).repeat_interleave(repeat, dim=0) for part in parts)
        return first, second, third

    def materialize(self, x: Tensor, features: Features, featurizer: Featurizer, call: Call) -> Tensor:
        u = self.content(x, features).double()
        decay, drive, readout = self.sampled(featurizer, torch.float64)
        transitions = decay + drive * u.unsqueeze(-1)  # B ℓ d M
        carried = u.new_zeros((u.shape[0], 0, *decay.shape), dtype=decay.dtype)  # Π of the transitions since each j
        rows = []
        for i in range(u.shape[1]):
            start = self.window is not None and i % self.window == 0
            carried = carried * (0 if start else transitions[:, i].unsqueeze(1))
            carried = torch.cat([carried, torch.ones_like(transitions[:, :1])], dim=1)
            row = torch.einsum("bjdm,dm->bdj", carried, readout * drive).real
            rows.append(torch.nn.functional.pad(row, (0, u.shape[1] - 1 - i)))
        matrix = torch.stack(rows, dim=2) + torch.diag_embed(self.D.double()[:, None].expand(-1, u.shape[1]))
        gated = features["z"].double().transpose(1, 2)[..., None] * matrix
        return gated.to(torch.promote_types(x.dtype, torch.float32))

    def content(self, x: Tensor, features: Features) -> Tensor:
        return torch.tanh(features["v"])

    def forward(
        self, x: Tensor, features: Features, featurizer: Featurizer, call: Call, state: OperatorState | None
    ) -> Tensor:
        u = self.content(x, features)
        y = self._scanned(u, featurizer, call, state)
        return (y + self.D * u).to(u.dtype) * features["z"]

    def advance(self, x: Tensor, features: Features, featurizer: Featurizer, call: Call, state: OperatorState) -> None:
        self._scanned(self.content(x, features), featurizer, call, state)

    def _scanned(self, u: Tensor, featurizer: Featurizer, call: Call, state: OperatorState | None) -> Tensor:
        real = torch.promote_types(u.dtype, torch.float32)
        keep = None
        if self.window is not None:
            keep = call.within_block(self.window, u.shape[1], u.shape[1], u.device) != 0
        with without_autocast(u):
            decay, drive, readout = self.sampled(featurizer, real)
            if state is None:
                h = decay.new_zeros((u.shape[0], *decay.shape))
            else:
                h = restored(state["h"], self.modes.paired)
            y, h = liquid_scan(u.to(real), decay, drive, readout, h, keep)
        if state is not None:
            replace(state, "h", stored(h))
        return y
