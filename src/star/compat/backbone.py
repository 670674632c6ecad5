"""`STARBackbone` and its configuration, as the README of ``star-backbone`` shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from torch import Tensor, nn

from star.backbone import Backbone
from star.errors import StarError
from star.genome import (
    BackboneGenome,
    ChannelMixing,
    FeaturizerGenome,
    LivClass,
    Nonlinearity,
    OperatorGenome,
    OptionPool,
    Sparsity,
    TokenMixing,
    stack,
)


class TokenMixingStructure(Enum):
    """How tokens interact."""

    DIAGONAL = TokenMixing.DIAGONAL
    LOW_RANK = TokenMixing.LOW_RANK
    SCALED_TOEPLITZ = TokenMixing.SCALED_TOEPLITZ
    SEQUENTIAL_SEMI_SEPARABLE = TokenMixing.SEMI_SEPARABLE


class ChannelMixingStructure(Enum):
    """How channels interact."""

    DIAGONAL = ChannelMixing.DIAGONAL
    DENSE = ChannelMixing.DENSE
    GROUPED = ChannelMixing.GROUPED


#: The paper's class whose featurizer and sharing strategies stand for each token mixing.
_MODELS = {
    TokenMixing.DIAGONAL: 9,
    TokenMixing.LOW_RANK: 1,
    TokenMixing.SCALED_TOEPLITZ: 7,
    TokenMixing.SEMI_SEPARABLE: 5,
}
#: The groups that each factor multiplies, as `star.genome.meaning` allows. None for Toeplitz token mixing.
_EXPANDED: dict[TokenMixing, tuple[str, ...]] = {
    TokenMixing.DIAGONAL: ("gate", "up"),
    TokenMixing.LOW_RANK: ("q", "k", "v"),
    TokenMixing.SCALED_TOEPLITZ: (),
    TokenMixing.SEMI_SEPARABLE: ("B", "C"),
}
_REPEATED: dict[TokenMixing, tuple[str, ...]] = {
    TokenMixing.DIAGONAL: ("gate", "up"),
    TokenMixing.LOW_RANK: ("k", "v"),
    TokenMixing.SCALED_TOEPLITZ: (),
    TokenMixing.SEMI_SEPARABLE: ("v", "z", "delta"),
}
_NONLINEARITIES = {
    None: Nonlinearity.NONE,
    "softmax": Nonlinearity.SOFTMAX,
    "relu": Nonlinearity.RELU,
    "silu": Nonlinearity.SWISH,
    "swish": Nonlinearity.SWISH,
}


@dataclass
class LIVConfig:
    """One LIV class.

    sparsity_mask is a band of `LivClass.window` tokens. The factors act by token mixing:

    - diagonal: expansion_factor multiplies the usual hidden size, the channels of gate and up; of these only one in
      repeat_factor is computed, and the others are copies.
    - low-rank: expansion_factor multiplies the channels of q, k and v; repeat_factor is the number of query heads for
      each key and value head.
    - semi-separable: expansion_factor multiplies the state size N, the channels of B and C, and leaves those of v as
      they are; of the channels of v, z and Δ only one in repeat_factor is computed, and the others are copies.
    - Toeplitz: both must be 1.

    A repeat_factor that does not divide the channels or heads is refused when the backbone is built, where its width
    is known. A single Δ or head for all channels (dense channel mixing) cannot be repeated.
    """

    featurizer_class: int
    token_mixing: TokenMixingStructure
    sparsity_mask: bool = False
    nonlinearity: str | None = None
    channel_mixing: ChannelMixingStructure = ChannelMixingStructure.DIAGONAL
    expansion_factor: int = 1
    repeat_factor: int = 1

    def liv_class(self, liv: int) -> LivClass:
        """The row of an option pool that this describes; `StarError` where the combination has no meaning."""
        if self.nonlinearity not in _NONLINEARITIES:
            raise StarError(f"nonlinearity {self.nonlinearity!r} is unknown; use None, 'softmax', 'relu' or 'silu'.")
        if self.expansion_factor < 1 or self.repeat_factor < 1:
            raise StarError(
                f"expansion_factor {self.expansion_factor} and repeat_factor {self.repeat_factor} start at 1."
            )
        mixing = self.token_mixing.value
        for name, factor, changed in (
            ("expansion_factor", self.expansion_factor, _EXPANDED[mixing]),
            ("repeat_factor", self.repeat_factor, _REPEATED[mixing]),
        ):
            if factor > 1 and not changed:
                raise StarError(
                    f"{name} {factor} has no meaning for Toeplitz token mixing: C, K and B act on x itself, channel by "
                    "channel; use 1."
                )
        model = OptionPool.paper()[_MODELS[mixing]]
        groups = []
        for name, group in model.groups.items():
            expansion = self.expansion_factor if name in _EXPANDED[mixing] else 1
            repeat = self.repeat_factor if name in _REPEATED[mixing] else 1
            groups.append(replace(group, expansion=group.expansion * expansion, repeat=group.repeat * repeat))
        operator = OperatorGenome(
            self.featurizer_class,
            mixing,
            Sparsity.BANDED if self.sparsity_mask else Sparsity.NONE,
            _NONLINEARITIES[self.nonlinearity],
            self.channel_mixing.value,
        )
        return LivClass(liv, f"LIV-{liv}", operator, FeaturizerGenome(tuple(groups)), model.strategies)


class STARBackbone(nn.Module):
    """A causal backbone [batch, length, dim] → [batch, length, dim].

    genome: segments of five integers, a motif that is stacked until the backbone has `depth` LIVs. configs: LIV class
    id → `LIVConfig`. Raises `StarError` where depth is no multiple of the motif, or a genome or config is invalid.
    """

    def __init__(self, dim: int, depth: int, genome: Sequence[Sequence[int]], configs: Mapping[int, LIVConfig]) -> None:
        super().__init__()
        if not genome or any(len(segment) != 5 for segment in genome):
            raise StarError("a genome is a list of segments of five integers, for example [[1, 1, 1, 1, 1]].")
        if depth < 1 or depth % len(genome):
            raise StarError(
                f"depth {depth} is no multiple of the {len(genome)} segments of the genome; "
                f"use {max(1, depth // len(genome)) * len(genome)}, or another motif."
            )
        if not configs:
            raise StarError("no configs were given; give a LIVConfig for each LIV class of the genome.")
        motif = BackboneGenome.from_integers(integer for segment in genome for integer in segment)
        pool = OptionPool("star-backbone", tuple(config.liv_class(liv) for liv, config in sorted(configs.items())))
        self.backbone = Backbone(stack(motif, depth // len(genome)), pool, width=dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, length, dim] → [batch, length, dim]; no output depends on later inputs."""
        return self.backbone(x)
