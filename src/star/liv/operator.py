"""A LIV compiled from its genomes: featurizer, token mixer, output map; and the difference of two (A.6.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from star.errors import StarError
from star.genome import ChannelMixing, LivClass, Nonlinearity, TokenMixing
from star.liv.featurizer import Featurizer
from star.liv.kernels.gated_mlp import gated_mlp, in_cache
from star.liv.kernels.multi_head_attention import multi_head_attention
from star.liv.kernels.projections import autocasts, joined, without_autocast
from star.liv.liquid import LiquidMixer
from star.liv.low_rank import LowRankMixer
from star.liv.maps import Dense, channel_map, hooked
from star.liv.mixer import DiagonalMixer, Mixer
from star.liv.resampling import ResamplingMixer
from star.liv.semi_separable import SemiSeparableMixer
from star.liv.sizes import head_size
from star.liv.state import Call, OperatorState, Slot
from star.liv.toeplitz import ToeplitzMixer

#: A residual stream and what is to be added to it, [B, ℓ, d] each; None: there is no kernel for that.
Fused = tuple[Tensor, Tensor] | None

MIXERS: dict[TokenMixing, Callable[[LivClass, int], nn.Module]] = {
    TokenMixing.DIAGONAL: DiagonalMixer,
    TokenMixing.LOW_RANK: LowRankMixer,
    TokenMixing.SCALED_TOEPLITZ: ToeplitzMixer,
    TokenMixing.SEMI_SEPARABLE: SemiSeparableMixer,
    TokenMixing.RESAMPLING: ResamplingMixer,
}


def mixer_of(row: LivClass, width: int) -> nn.Module:
    """The module that applies T: one for each token mixing, and one for recurrences from a fixed state space."""
    if row.operator.token_mixing is TokenMixing.SEMI_SEPARABLE and row.state_spaces:
        return LiquidMixer(row, width)
    return MIXERS[row.operator.token_mixing](row, width)


@dataclass(frozen=True)
class Sharing:
    """How one LIV of a backbone is connected: `taken` group → index of the LIV that it comes from; `given`: own groups
    that later LIVs take; `modules[branch]` group → another LIV's weights."""

    index: int = 0
    taken: Mapping[str, int] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    modules: tuple[Mapping[str, nn.Module], ...] = ({}, {})


class Operator(nn.Module):
    """y = W_o T(x) x for one operator genome; causal. [B, ℓ, d] → [B, ℓ, d]."""

    def __init__(self, row: LivClass, width: int, length: int, sharing: Sharing, branch: int = 0) -> None:
        super().__init__()
        self.sharing, self.branch = sharing, branch
        shared = sharing.modules[branch]
        computed = {name: shared.get(name) for name in row.group_names if name not in sharing.taken}
        self.featurizer = Featurizer(row, width, length, computed)
        self.mixer = mixer_of(row, width)
        # The memoryless unit's channel mixing is its output map; the others end in a dense one (design of A.6.2), or in
        # a Monarch matrix where that is their channel mixing.
        monarch = row.operator.channel_mixing is ChannelMixing.MONARCH
        mixing = row.operator.channel_mixing if row.memoryless or monarch else ChannelMixing.DENSE
        blocks = width // head_size(width) if mixing is ChannelMixing.GROUPED else 1
        self.output = channel_map(mixing, self._mixer.channels, width, blocks)

    @property
    def _mixer(self) -> Mixer:
        return self.mixer  # type: ignore[return-value]

    @property
    def reads_input(self) -> bool:
        """False where a LIV takes so much from others that it never looks at its own input."""
        return self.featurizer.reads_x or isinstance(self.mixer, ToeplitzMixer)

    @property
    def keeps(self) -> bool:
        """Whether other tokens or LIVs may need what is computed for a token."""
        return bool(self.sharing.given or self.slots(1))

    def slots(self, max_length: int) -> list[Slot]:
        """The state for one sequence of up to `max_length` tokens."""
        return self.featurizer.slots(max_length) + self._mixer.slots(max_length, frozenset(self.sharing.taken))

    def features(
        self, x: Tensor, call: Call, state: OperatorState | None, only: frozenset[str] | None = None
    ) -> dict[str, Tensor]:
        """All feature groups (`only` these of its own, where given), computed or taken; those that later LIVs take are
        published in the call."""
        taken = self.taken(call)
        own = self._mixer.prepare(self.featurizer(x, state, taken, call.position, only), call, state)
        self.publish(own, call)
        return own | taken

    def taken(self, call: Call) -> dict[str, Tensor]:
        """The groups that earlier LIVs of this pass have published for this one."""
        taken = {}
        for name, source in self.sharing.taken.items():
            if (source, self.branch, name) not in call.published:
                raise StarError(f"LIV {self.sharing.index} takes {name} from LIV {source}; run it within its backbone.")
            taken[name] = call.published[source, self.branch, name]
        return taken

    def publish(self, own: Mapping[str, Tensor], call: Call) -> None:
        """Hand on what later LIVs take of this one's prepared groups."""
        for name in self.sharing.given & own.keys():
            call.published[self.sharing.index, self.branch, name] = own[name]

    def forward(self, x: Tensor, call: Call, state: OperatorState | None, needed: Tensor | None = None) -> Tensor:
        """`needed` [B, ℓ] bool: the tokens whose output is read, all by default; 0 comes out for the others, and work
        for them is skipped as far as the state allows."""
        if needed is None and (fused := self.fused(x, call, state)) is not None:
            return fused[1]
        if needed is None:
            return self.output(self._mixer(x, self.features(x, call, state), self.featurizer, call, state))
        output = torch.zeros_like(x)
        if not bool(needed.any()):
            self.advance(x, call, state)
        elif isinstance(self.mixer, DiagonalMixer) and not self.sharing.taken and not self.keeps:
            alone = x[needed].unsqueeze(0)  # tokens do not see each other
            features = self.features(alone, call, None)
            output[needed] = self.output(self.mixer(alone, features, self.featurizer, call, None))[0]
        else:
            mixed = self._mixer(x, self.features(x, call, state), self.featurizer, call, state)
            output[needed] = self.output(mixed[needed])
        return output

    def fused(
        self,
        x: Tensor,
        call: Call,
        state: OperatorState | None,
        update: Tensor | None = None,
        norm: Tensor | None = None,
        epsilon: float = 0.0,
    ) -> Fused:
        """x + update, and what `forward` makes of its norm (of x itself, without a norm's weight), where one kernel is
        all of that; else None. Where a CPU's autocast to bfloat16 holds, weights and output are cast to it."""
        dtype = torch.get_autocast_dtype(x.device.type) if autocasts(x) else None
        if dtype is not None and (x.device.type != "cpu" or dtype is not torch.bfloat16 or x.dtype is torch.float64):
            return None
        mixer = self.mixer
        with without_autocast(x):
            if isinstance(mixer, DiagonalMixer) and mixer.nonlinearity is Nonlinearity.SWISH:
                # Without gradients there is no kernel of halves, and a token would wait for casts.
                weights = self._plain_weights("gate", "up", dtype=dtype) if dtype is None or joined(x) else []
                if weights and (joined(x) or in_cache(x, weights[0], weights[2])):
                    return gated_mlp(x, update, norm, epsilon, *weights)
            elif isinstance(mixer, LowRankMixer) and mixer.softmax_of_all and state is None and call.valid is None:
                weights = self._plain_weights("q", "k", "v", dtype=dtype)
                if weights and mixer.size == mixer.value_size:
                    q, k, v, out = weights
                    position = call.position if mixer.rotary else None
                    return multi_head_attention(x, update, norm, epsilon, q, k, v, out, mixer.size, position)
        return None

    def _plain_weights(self, *names: str, dtype: torch.dtype | None) -> list[Tensor]:
        """The weights of the maps to these groups and to the output, where all are dense, nothing is shared and nothing
        else happens between x, mixer and y; else none. No module is called, so that there must be no hooks."""
        if self.sharing.taken or self.sharing.given:
            return []
        maps = [*(self.featurizer.linear_map(name) for name in names), self.output]
        if any(map(hooked, (self.mixer, self.featurizer, *self.featurizer.groups.values()))):
            return []
        plain: list[Tensor] = [one.weight for one in maps if type(one) is Dense and not hooked(one)]
        if len(plain) < len(maps):
            return []
        return plain if dtype is None else [weight.to(dtype) for weight in plain]

    def advance(self, x: Tensor, call: Call, state: OperatorState | None) -> None:
        """Take note of tokens whose output nobody reads: the state, and what later LIVs take."""
        if not self.sharing.given and (state is None or not self.keeps):
            return
        needed = self.sharing.given if state is None else self.sharing.given | self._mixer.remembered
        features = self.features(x, call, state, self.featurizer.needed_for(needed))
        if state is not None:
            self._mixer.advance(x, features, self.featurizer, call, state)

    def materialize(self, x: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        """T(x) [B, heads or channels, ℓ, ℓ], and what it is applied to, [B, ℓ, channels], before the output map."""
        features = self.features(x, call, None)
        return self._mixer.materialize(x, features, self.featurizer, call), self._mixer.content(x, features)

    def apply_matrix(self, matrix: Tensor, content: Tensor) -> Tensor:
        """W_o T c for T [B, heads or channels, ℓ, ℓ] and c [B, ℓ, channels]: [B, ℓ, d]."""
        heads = matrix.shape[1]
        mixed = torch.einsum("bhij,bjhc->bihc", matrix.to(content.dtype), content.unflatten(-1, (heads, -1)))
        return self.output(mixed.flatten(-2))


class LIV(nn.Module):
    """One LIV: an `Operator`, or for a differential class the difference of two, T₁ - T₂, with the same sharing."""

    def __init__(self, row: LivClass, width: int, length: int = 4096, sharing: Sharing | None = None) -> None:
        """`length` (tokens) sets the time scale of implicit kernels. Raises `StarError` where width does not fit."""
        super().__init__()
        self.row, self.width = row, width
        sharing = sharing or Sharing()
        branches = 2 if row.differential else 1
        self.branches = nn.ModuleList(Operator(row, width, length, sharing, branch) for branch in range(branches))

    @property
    def operators(self) -> list[Operator]:
        """The branches: one, or two."""
        return list(self.branches)  # type: ignore[arg-type]

    def scale_output(self, factor: float) -> None:
        """Multiply the fresh output maps, so that a deep residual stream keeps its variance."""
        with torch.no_grad():
            for operator in self.operators:
                operator.output.weight.mul_(factor)  # type: ignore[operator]

    def slots(self, max_length: int) -> list[list[Slot]]:
        """The state for one sequence, branch by branch."""
        return [operator.slots(max_length) for operator in self.operators]

    def materialize(self, x: Tensor, call: Call | None = None) -> Tensor:
        """T(x) written out for x [B, ℓ, d] as [B, heads or channels, ℓ, ℓ] (paper 2); a differential class gives those
        of its second branch behind those of its first. Memory grows with ℓ²: for tests and pictures.

        In a backbone, x is what the LIV reads (the normed residual stream), and a LIV that takes feature groups needs
        the `call` of the pass that computed them; see `Backbone.materialize`.
        """
        return self.materialized(x, call)[0]

    def materialized(self, x: Tensor, call: Call | None = None) -> tuple[Tensor, Tensor]:
        """T as `materialize` gives it, and y [B, ℓ, d], what `forward` gives, computed through T."""
        call = call or Call()
        written = [operator.materialize(x, call) for operator in self.operators]
        first, *second = (operator.apply_matrix(*pair) for operator, pair in zip(self.operators, written, strict=True))
        return torch.cat([matrix for matrix, _ in written], dim=1), first - second[0] if second else first

    def forward(
        self,
        x: Tensor,
        call: Call | None = None,
        state: list[OperatorState] | None = None,
        needed: Tensor | None = None,
    ) -> Tensor:
        """x: [B, ℓ, d] → [B, ℓ, d]; a state is advanced by ℓ tokens. `needed`: [B, ℓ] bool, the tokens whose output is
        read (the others get 0), or None for all."""
        call = call or Call()
        first, *second = (
            operator(x, call, None if state is None else state[branch], needed)
            for branch, operator in enumerate(self.operators)
        )
        return first - second[0] if second else first

    def fused(
        self,
        x: Tensor,
        call: Call,
        state: list[OperatorState] | None,
        update: Tensor | None,
        norm: Tensor,
        epsilon: float,
    ) -> Fused:
        """x + update, and what `forward` makes of its norm, where one kernel is all of that; else None."""
        operator, *second = self.operators
        if second or hooked(self) or hooked(operator):
            return None
        return operator.fused(x, call, None if state is None else state[0], update, norm, epsilon)
