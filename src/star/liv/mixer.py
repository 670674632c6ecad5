"""What every token mixer has in common, and the memoryless one."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from star.genome import LivClass, Nonlinearity
from star.liv.featurizer import Featurizer
from star.liv.kernels.gated_unit import gated_unit
from star.liv.maps import activate
from star.liv.sizes import hidden_size
from star.liv.state import Call, OperatorState, Slot

Features = dict[str, Tensor]


class Mixer(Protocol):
    """Applies T to the content of a LIV, given the feature groups that define T."""

    channels: int  # of the output
    remembered: frozenset[str]  # the groups that the state is made from

    def slots(self, max_length: int, taken: frozenset[str]) -> list[Slot]:
        """State for one sequence; what belongs to `taken` groups is kept by the LIV that they come from."""
        ...

    def prepare(self, features: Features, call: Call, state: OperatorState | None) -> Features:
        """Own groups in the form that this mixer, and every LIV that takes one of them, works with."""
        ...

    def materialize(self, x: Tensor, features: Features, featurizer: Featurizer, call: Call) -> Tensor:
        """T written out: [B, heads or channels, ℓ, ℓ], float32 or better; for the start of a sequence."""
        ...

    def content(self, x: Tensor, features: Features) -> Tensor:
        """What T is applied to: [B, ℓ, channels]."""
        ...

    def __call__(
        self, x: Tensor, features: Features, featurizer: Featurizer, call: Call, state: OperatorState | None
    ) -> Tensor:
        """x: [B, ℓ, d] and all groups → [B, ℓ, channels]; advances the state."""
        ...

    def advance(self, x: Tensor, features: Features, featurizer: Featurizer, call: Call, state: OperatorState) -> None:
        """Advance the state as a call would, for tokens whose output nobody reads; needs the `remembered` groups."""
        ...


class DiagonalMixer(nn.Module):
    """T_ii = σ(gate_i), T_ij = 0 elsewhere: y = σ(gate) ⊙ up. With swish: SwiGLU (Shazeer 2020)."""

    def __init__(self, row: LivClass, width: int) -> None:
        super().__init__()
        self.nonlinearity = row.operator.nonlinearity
        self.channels = hidden_size(row, width)

    remembered: frozenset[str] = frozenset()

    def slots(self, max_length: int, taken: frozenset[str]) -> list[Slot]:
        return []

    def prepare(self, features: Features, call: Call, state: OperatorState | None) -> Features:
        return features

    def materialize(self, x: Tensor, features: Features, featurizer: Featurizer, call: Call) -> Tensor:
        return torch.diag_embed(activate(features["gate"], self.nonlinearity).transpose(1, 2))

    def content(self, x: Tensor, features: Features) -> Tensor:
        return features["up"]

    def forward(
        self, x: Tensor, features: Features, featurizer: Featurizer, call: Call, state: OperatorState | None
    ) -> Tensor:
        gate, up = features["gate"], features["up"]
        return (
            gated_unit(gate, up) if self.nonlinearity is Nonlinearity.SWISH else activate(gate, self.nonlinearity) * up
        )

    def advance(self, x: Tensor, features: Features, featurizer: Featurizer, call: Call, state: OperatorState) -> None:
        """There is no state."""
