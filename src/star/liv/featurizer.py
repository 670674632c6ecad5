"""The featurizer: from x to the feature groups that define T (paper 2; A.6.3)."""

from __future__ import annotations

from collections.abc import Mapping
from math import log

import torch
from torch import Tensor, nn

from star.genome import ChannelMixing, FeatureGroup, LivClass, Parametrization, TokenMixing
from star.liv.filters import ExplicitKernel, ImplicitKernel
from star.liv.kernels.convolution import short_convolution
from star.liv.maps import Factored, activate, channel_map, undecayed
from star.liv.sizes import SHORT_TAPS, group_channels, head_size, inner_width, step_rank
from star.liv.state import OperatorState, Slot, slide

STEP_RANGE = (1e-3, 0.1)  # Δ at initialisation is log-uniform in this range (Gu & Dao 2023)


def fresh_steps(like: Tensor) -> Tensor:
    """Inverse softplus of step sizes that are log-uniform in `STEP_RANGE`."""
    low, high = (log(bound) for bound in STEP_RANGE)
    step = torch.exp(torch.rand_like(like) * (high - low) + low)
    return step + torch.log(-torch.expm1(-step))


class ProjectedGroup(nn.Module):
    """A feature group computed from the input: channel mixing, short depthwise convolution, nonlinearity, repetition.

    [B, ℓ, inputs] → [B, ℓ, outputs · repeat]. With diagonal channel mixing and a convolution the convolution's taps are
    the channel weights, so there is no other parameter. `step_size` adds the bias of raw Δ, whose softplus starts
    log-uniform in `STEP_RANGE`.
    """

    def __init__(
        self,
        group: FeatureGroup,
        project: nn.Module | None,
        outputs: int,
        *,
        convolve: bool,
        repeat: int,
        step_size: bool,
    ) -> None:
        super().__init__()
        self.nonlinearity = group.nonlinearity
        self.outputs, self.repeat = outputs, repeat
        self.project = project
        self.taps = nn.Parameter(torch.empty(outputs, SHORT_TAPS)) if convolve else None
        self.bias = undecayed(nn.Parameter(torch.empty(outputs))) if step_size else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.taps is not None:
            bound = SHORT_TAPS**-0.5
            nn.init.uniform_(self.taps, -bound, bound)
        if self.bias is not None:
            with torch.no_grad():
                self.bias.copy_(fresh_steps(self.bias))

    def slots(self) -> list[Slot]:
        return [] if self.taps is None else [Slot("tail", (SHORT_TAPS - 1, self.outputs))]

    def forward(self, x: Tensor, state: OperatorState | None, name: str) -> Tensor:
        if self.project is not None:
            x = self.project(x)
        if self.taps is not None:
            x = short_convolution(x, self.taps, None if state is None else slide(state, name, x))
        if self.bias is not None:
            x = x.to(torch.promote_types(x.dtype, torch.float32)) + self.bias  # decays are exponentials of this sum
        x = activate(x, self.nonlinearity)
        return x if self.repeat == 1 else x.repeat_interleave(self.repeat, dim=-1)


class Constant(nn.Module):
    """A learned feature group that is the same for every input and position: [channels]."""

    def __init__(self, channels: int, *, step_size: bool) -> None:
        super().__init__()
        self.step_size = step_size
        self.value = undecayed(nn.Parameter(torch.empty(channels)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Ones; for raw Δ the inverse softplus of step sizes, as in `ProjectedGroup`."""
        with torch.no_grad():
            self.value.copy_(fresh_steps(self.value) if self.step_size else torch.ones_like(self.value))

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
        self.reads_v = {name for name in computed if _reads_v(row, name)}
        # A group that is a constant, or that reads a v from elsewhere, never looks at x.
        self.reads_x = any(
            row.groups[name].from_input and not (name in self.reads_v and "v" not in computed) for name in computed
        )
        self.groups = nn.ModuleDict(
            {name: module or _build(row, name, width, length) for name, module in computed.items()}
        )

    def slots(self) -> list[Slot]:
        """The tails of the short convolutions, as ``NAME.tail``."""
        return [
            Slot(f"{name}.tail", slot.shape)
            for name, group in self.groups.items()
            if isinstance(group, ProjectedGroup)
            for slot in group.slots()
        ]

    def forward(self, x: Tensor, state: OperatorState | None, taken: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Own groups but the kernel, which the mixer asks for with the length that it needs. `taken`: groups from
        another LIV."""
        features: dict[str, Tensor] = {}
        for name, group in self.groups.items():
            if isinstance(group, ProjectedGroup):
                source = x
                if name in self.reads_v:
                    source = taken["v"] if "v" in taken else features["v"]
                features[name] = group(source, state, f"{name}.tail")
            elif isinstance(group, Constant):
                features[name] = group(x)
        return features

    def kernel(self, length: int) -> Tensor:
        """The kernel K of a Toeplitz operator for up to `length` lags: [channels, lags]."""
        return self.groups["K"](length)


def _reads_v(row: LivClass, name: str) -> bool:
    return (
        row.operator.token_mixing is TokenMixing.SEMI_SEPARABLE
        and name in ("delta", "B", "C")
        and all(row.groups[group].token_mixing is TokenMixing.SCALED_TOEPLITZ for group in (name, "v"))
    )


def _build(row: LivClass, name: str, width: int, length: int) -> nn.Module:
    group = row.groups[name]
    outputs = group_channels(row, name, width)
    step_size = row.operator.token_mixing is TokenMixing.SEMI_SEPARABLE and name == "delta"
    if name == "K":
        implicit = group.parametrization is Parametrization.IMPLICIT
        return ImplicitKernel(outputs, length) if implicit else ExplicitKernel(outputs)
    if not group.from_input:
        return Constant(outputs, step_size=step_size)
    mixing = group.channel_mixing
    inputs = inner_width(row, width) if _reads_v(row, name) else width
    convolve = group.token_mixing is TokenMixing.SCALED_TOEPLITZ and not _reads_v(row, name)
    project: nn.Module | None
    if step_size and mixing is ChannelMixing.DENSE and outputs > step_rank(width):
        project = Factored(inputs, outputs, step_rank(width))
    elif convolve and mixing is ChannelMixing.DIAGONAL:
        project = None
    else:
        blocks = width // head_size(width) if mixing is ChannelMixing.GROUPED else 1
        project = channel_map(mixing, inputs, outputs, blocks)
    # Attention repeats its key and value heads itself, without storing them more than once.
    repeat = 1 if row.operator.token_mixing is TokenMixing.LOW_RANK else group.repeat
    return ProjectedGroup(group, project, outputs, convolve=convolve, repeat=repeat, step_size=step_size)
