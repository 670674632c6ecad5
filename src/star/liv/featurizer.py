"""The featurizer: from x to the feature groups that define T (paper 2; A.6.3)."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd, log, pi, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from star.genome import ChannelMixing, FeatureGroup, LivClass, Nonlinearity, Parametrization, TokenMixing
from star.liv.kernels.convolution import short_convolution
from star.liv.sizes import SHORT_TAPS, group_channels, head_size, inner_width, step_rank
from star.liv.state import OperatorState, Slot, slide

STEP_RANGE = (1e-3, 0.1)  # Δ at initialisation is log-uniform in this range (Gu & Dao 2023)


def activate(x: Tensor, nonlinearity: Nonlinearity) -> Tensor:
    """The elementwise nonlinearities of the genome."""
    match nonlinearity:
        case Nonlinearity.RELU:
            return functional.relu(x)
        case Nonlinearity.SWISH:
            return functional.silu(x)
        case _:
            return x


def undecayed(parameter: nn.Parameter) -> nn.Parameter:
    """Mark a decay, step-size or scale parameter: weight decay would pull it to a meaningless zero."""
    parameter.no_weight_decay = True  # type: ignore[attr-defined]
    return parameter


class Dense(nn.Module):
    """y = W x. weight: [out, in], normal with variance 1/(3 in) as torch's own linear layer has it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=1 / sqrt(3 * self.weight.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)


class Grouped(nn.Module):
    """Block-diagonal y = W x, as many equal blocks as divide both sides, up to `blocks`. weight: [G, in/G, out/G]."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        blocks = gcd(gcd(inputs, outputs), blocks)
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=1 / sqrt(3 * self.weight.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        # B L (G i), G i o -> B L (G o)
        return torch.einsum("blgi,gio->blgo", x.unflatten(-1, (self.weight.shape[0], -1)), self.weight).flatten(-2)


class Diagonal(nn.Module):
    """y = w ⊙ x, or the sum of `inputs / outputs` scaled blocks of x. weight: [inputs]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.weight = nn.Parameter(torch.empty(inputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, sqrt(self.outputs / self.weight.shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).unflatten(-1, (-1, self.outputs)).sum(-2)


def channel_map(mixing: ChannelMixing, inputs: int, outputs: int, blocks: int) -> nn.Module:
    """The linear map with a channel-mixing structure."""
    match mixing:
        case ChannelMixing.DENSE:
            return Dense(inputs, outputs)
        case ChannelMixing.GROUPED:
            return Grouped(inputs, outputs, blocks)
        case ChannelMixing.DIAGONAL:
            return Diagonal(inputs, outputs)


def fresh_steps(like: Tensor) -> Tensor:
    """Inverse softplus of step sizes that are log-uniform in `STEP_RANGE`."""
    low, high = (log(bound) for bound in STEP_RANGE)
    step = torch.exp(torch.rand_like(like) * (high - low) + low)
    return step + torch.log(-torch.expm1(-step))


class Factored(nn.Module):
    """A dense map of rank r, as Mamba has it for Δ: [out, r] · [r, in] (Gu & Dao 2023)."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.reduce = Dense(inputs, rank)
        self.expand = Dense(rank, outputs)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = self.reduce.weight.shape[0] ** -0.5
        nn.init.uniform_(self.expand.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(self.reduce(x))


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


class ExplicitKernel(nn.Module):
    """A convolution kernel given by its taps: [channels, 3], by lag: the first tap is on the present token."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.empty(channels, SHORT_TAPS))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = SHORT_TAPS**-0.5
        nn.init.uniform_(self.taps, -bound, bound)

    def forward(self, length: int) -> Tensor:
        """The kernel for lags 0 … min(length, 3) - 1: [channels, that many]."""
        return self.taps[:, :length]


class Affine(nn.Module):
    """y = W x + b in x's dtype. No `nn.Linear`: initialisations of whole models look for those, and a filter whose
    network starts near zero stays there."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class ImplicitKernel(nn.Module):
    """A long kernel as a function of the lag t (Poli et al. 2023): a small network with sine activations over
    t / `length`, times an exponential window of its own rate for each channel, plus a weight on the present token.

    `length` (tokens), saved with the weights, sets the time scale; the kernel is defined for any lag, also beyond it.
    """

    FEATURES, ORDER, FAST, SLOW, TARGET = 5, 16, 0.3, 1.5, 1e-2

    length: Tensor

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.register_buffer("length", torch.tensor(length))
        self.first = Affine(self.FEATURES, self.ORDER)
        self.second = Affine(self.ORDER, self.ORDER)
        self.third = Affine(self.ORDER, self.ORDER)
        self.frequency = nn.Parameter(torch.empty(self.ORDER))
        self.last = nn.Parameter(torch.empty(channels, self.ORDER))
        self.present = nn.Parameter(torch.empty(channels))
        for parameter in self.parameters():
            undecayed(parameter)  # Poli et al. train the whole filter without weight decay
        self.scale = sqrt(16 / max(length, 16))  # keeps the energy of a fresh kernel the same at any length
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for layer in (self.first, self.second, self.third):
            layer.reset_parameters()
        nn.init.ones_(self.frequency)
        nn.init.normal_(self.last, std=self.scale / sqrt(self.ORDER))
        nn.init.ones_(self.present)

    def forward(self, length: int) -> Tensor:
        """The kernel for lags 0 … length - 1: [channels, length], in float32 or better."""
        dtype = torch.promote_types(self.last.dtype, torch.float32)
        with torch.autocast(self.last.device.type, enabled=False):
            time = (torch.arange(length, device=self.last.device, dtype=torch.float64) / self.length).to(dtype)
            angle = 2 * pi * time
            bands = [torch.cos(angle), torch.sin(angle), torch.cos(2 * angle), torch.sin(2 * angle)]
            hidden = torch.stack([time, *bands], dim=-1)
            for layer in (self.first, self.second, self.third):
                hidden = torch.sin(self.frequency.to(dtype) * layer(hidden))
            decades = log(1 / self.TARGET)
            rates = torch.linspace(
                decades / self.SLOW, decades / self.FAST, self.last.shape[0], dtype=dtype, device=time.device
            )
            window = torch.exp(-rates[:, None] * time)
            kernel = (self.last.to(dtype) @ hidden.t()) * window
            return torch.cat([kernel[:, :1] + self.present.to(dtype)[:, None], kernel[:, 1:]], dim=1)


class Constant(nn.Module):
    """A learned feature group that is the same for every input and position: [channels]."""

    def __init__(self, channels: int, *, step_size: bool) -> None:
        super().__init__()
        self.step_size = step_size
        self.value = undecayed(nn.Parameter(torch.empty(channels)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Ones; for raw Δ the inverse softplus of step sizes, as in `StepSize`."""
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
