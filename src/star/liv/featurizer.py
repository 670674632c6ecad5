"""The featurizer: from x to the feature groups that define T (paper 2; A.6.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from star.genome import ChannelMixing, FeatureGroup, LivClass, Nonlinearity, Parametrization, StateSpace, TokenMixing
from star.liv.filters import ExplicitKernel, ImplicitKernel
from star.liv.kernels.convolution import short_convolution
from star.liv.kernels.projections import joined, projections
from star.liv.maps import Dense, Factored, activate, channel_map, hooked, undecayed
from star.liv.shift import NEAREST, Shift, resampled, spread_
from star.liv.sizes import SHORT_TAPS, group_channels, head_size, inner_width, step_rank
from star.liv.state import OperatorState, Slot, slide
from star.liv.state_space import STEP_RANGE, Drive, Readout, StateSpaceKernel, StepSize

Range = tuple[float, float]


class ProjectedGroup(nn.Module):
    """A feature group computed from the input: channel mixing, short depthwise convolution or resampling, nonlinearity,
    repetition.

    [B, ℓ, inputs] → [B, ℓ, outputs · repeat]. With diagonal channel mixing and a convolution the convolution's taps are
    the channel weights, so there is no other parameter. `softplus_range` adds a bias, for a raw Δ or shift, whose
    softplus starts log-uniform in that range.
    """

    def __init__(
        self,
        group: FeatureGroup,
        project: nn.Module | None,
        outputs: int,
        *,
        convolve: bool,
        shift: Shift | None,
        repeat: int,
        softplus_range: Range | None,
    ) -> None:
        super().__init__()
        self.nonlinearity = group.nonlinearity
        self.outputs, self.repeat = outputs, repeat
        self.softplus_range = softplus_range
        self.project = project
        self.taps = nn.Parameter(torch.empty(outputs, SHORT_TAPS)) if convolve else None
        self.shift = shift
        self.bias = undecayed(nn.Parameter(torch.empty(outputs))) if softplus_range else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.taps is not None:
            bound = SHORT_TAPS**-0.5
            nn.init.uniform_(self.taps, -bound, bound)
        if self.bias is not None and self.softplus_range is not None:
            spread_(self.bias, *self.softplus_range)

    @property
    def linear(self) -> bool:
        """Whether the group is `project` and nothing else."""
        others = (self.taps, self.shift, self.bias)
        return all(one is None for one in others) and self.nonlinearity is Nonlinearity.NONE and self.repeat == 1

    def slots(self, max_length: int) -> list[Slot]:
        """The inputs that the convolution or the shifts may still read."""
        if self.taps is not None:
            return [Slot("tail", (SHORT_TAPS - 1, self.outputs))]
        return [Slot("tail", (min(self.shift.window, max_length), self.outputs))] if self.shift is not None else []

    def forward(
        self, x: Tensor, state: OperatorState | None, name: str, position: int, projected: Tensor | None = None
    ) -> Tensor:
        """`projected`: what `project` gives, where it has been computed already."""
        shift = None if self.shift is None else self.shift(x)
        if projected is not None:
            x = projected
        elif self.project is not None:
            x = self.project(x)
        if self.taps is not None:
            x = short_convolution(x, self.taps, None if state is None else slide(state, name, position, x))
        if self.shift is not None and shift is not None:
            known = x if state is None else torch.cat([slide(state, name, position, x).to(x.dtype), x], dim=1)
            x = resampled(known, x.shape[1], shift, self.shift.window)
        if self.bias is not None:
            x = x.to(torch.promote_types(x.dtype, torch.float32)) + self.bias  # decays are exponentials of this sum
        x = activate(x, self.nonlinearity)
        return x if self.repeat == 1 else x.repeat_interleave(self.repeat, dim=-1)


class Constant(nn.Module):
    """A learned feature group that is the same for every input and position: [channels]."""

    def __init__(self, channels: int, softplus_range: Range | None) -> None:
        super().__init__()
        self.softplus_range = softplus_range
        self.value = undecayed(nn.Parameter(torch.empty(channels)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Ones; for a raw Δ or shift as the bias of a `ProjectedGroup`."""
        if self.softplus_range:
            spread_(self.value, *self.softplus_range)
        else:
            nn.init.ones_(self.value)

    def forward(self, x: Tensor) -> Tensor:
        return self.value.to(x.dtype).expand(*x.shape[:2], -1)


class Featurizer(nn.Module):
    """The feature groups that one LIV computes itself, by name; weights may be another LIV's modules.

    In a semi-separable LIV whose group v is convolved, the groups Δ, B and C with Toeplitz token mixing read v (as in
    Mamba) and have no convolution of their own.
    """

    def __init__(self, row: LivClass, width: int, length: int, computed: Mapping[str, nn.Module | None]) -> None:
        """`computed` names the groups to compute; a module given there is shared, None is built here."""
        super().__init__()
        self.reads_v = {name for name in computed if name in row.reading_v}
        # A group that is a constant, or that reads a v from elsewhere, never looks at x.
        self.reads_x = any(
            row.groups[name].from_input and not (name in self.reads_v and "v" not in computed) for name in computed
        )
        self.groups = nn.ModuleDict(
            {name: module or _build(row, name, width, length) for name, module in computed.items()}
        )

    def slots(self, max_length: int) -> list[Slot]:
        """What short convolutions and resampled groups keep, as ``NAME.tail``."""
        return [
            Slot(f"{name}.tail", slot.shape)
            for name, group in self.groups.items()
            if isinstance(group, ProjectedGroup)
            for slot in group.slots(max_length)
        ]

    def needed_for(self, names: frozenset[str]) -> frozenset[str]:
        """`names`, the groups that keep a state, and v where one of these reads it."""
        kept = {name for name, group in self.groups.items() if isinstance(group, ProjectedGroup) and group.slots(1)}
        return names | kept | ({"v"} if (names | kept) & self.reads_v else set())

    def forward(
        self,
        x: Tensor,
        state: OperatorState | None,
        taken: Mapping[str, Tensor],
        position: int,
        only: frozenset[str] | None = None,
    ) -> dict[str, Tensor]:
        """Own groups (`only` these, where given) but those of a fixed state space, which the mixer asks for itself, for
        it knows lengths. `taken`: groups from another LIV; position: of the first token."""
        features: dict[str, Tensor] = {}
        for readers in (self.groups.keys() - self.reads_v, self.reads_v):  # v itself is computed before its readers
            names = [name for name in self.groups if name in readers and (only is None or name in only)]
            source = (taken["v"] if "v" in taken else features["v"]) if names and readers is self.reads_v else x
            projected = self._projected(source, names)
            for name in names:
                group = self.groups[name]
                if isinstance(group, ProjectedGroup):
                    features[name] = group(source, state, f"{name}.tail", position, projected.get(name))
                elif isinstance(group, Constant):
                    features[name] = group(source)
        return features

    def linear_map(self, name: str) -> nn.Module | None:
        """The linear map of x that an own group is, None where it is more than that."""
        group = self.groups[name]
        return group.project if isinstance(group, ProjectedGroup) and group.linear else None

    def _projected(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """The dense maps of x that several of these groups begin with, where computing them together pays."""
        maps = {
            name: project
            for name in names
            if isinstance(group := self.groups[name], ProjectedGroup)
            and isinstance(project := group.project, (Dense, Factored))
            and not any(map(hooked, project.modules()))
        }
        if len(maps) < 2 or not joined(x):
            return {}
        first = projections(x, [project.first for project in maps.values()])
        return {name: maps[name].rest(y) for name, y in zip(maps, first, strict=True)}

    def kernel(self, length: int) -> Tensor:
        """The kernel K of a Toeplitz operator for up to `length` lags: [channels, lags]."""
        return self.groups["K"](length)


def _build(row: LivClass, name: str, width: int, length: int) -> nn.Module:
    group = row.groups[name]
    outputs = group_channels(row, name, width)
    if group.state_space:
        return _state_space(row, name, outputs)
    if name == "K":
        implicit = group.parametrization is Parametrization.IMPLICIT
        return ImplicitKernel(outputs, length) if implicit else ExplicitKernel(outputs)
    step_size = row.operator.token_mixing is TokenMixing.SEMI_SEPARABLE and name == "delta"
    softplus_range = STEP_RANGE if step_size else None
    if row.operator.token_mixing is TokenMixing.RESAMPLING and name == "s":
        softplus_range = (NEAREST, max(1.0, float(row.window)))
    if not group.from_input:
        return Constant(outputs, softplus_range)
    mixing = group.channel_mixing
    blocks = width // head_size(width) if mixing is ChannelMixing.GROUPED else 1
    inputs = inner_width(row, width) if name in row.reading_v else width
    convolve = group.token_mixing is TokenMixing.SCALED_TOEPLITZ and name not in row.reading_v
    project: nn.Module | None
    if step_size and mixing is ChannelMixing.DENSE and outputs > step_rank(width):
        project = Factored(inputs, outputs, step_rank(width))
    elif convolve and mixing is ChannelMixing.DIAGONAL:
        project = None
    else:
        project = channel_map(mixing, inputs, outputs, blocks)
    shift = None
    if group.token_mixing is TokenMixing.RESAMPLING:
        shift = Shift(channel_map(mixing, inputs, outputs, blocks), outputs, row.window)
    # Attention repeats its key and value heads itself, without storing them more than once.
    repeat = 1 if row.operator.token_mixing is TokenMixing.LOW_RANK else group.repeat
    return ProjectedGroup(
        group, project, outputs, convolve=convolve, shift=shift, repeat=repeat, softplus_range=softplus_range
    )


def _state_space(row: LivClass, name: str, channels: int) -> nn.Module:
    """K of a Toeplitz operator, or Δ, B or C of a liquid one."""
    size, paired = row.groups[name].expansion, row.state_space is StateSpace.LIN
    match name:
        case "K":
            return StateSpaceKernel(row.state_space, channels, size)
        case "delta":
            return StepSize(channels)
        case "B":
            return Drive(channels, size, paired)
        case _:
            return Readout(channels, size, paired)
