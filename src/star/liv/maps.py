"""Linear maps of channels by structure, elementwise nonlinearities, and the mark of parameters without weight decay."""

from __future__ import annotations

from math import gcd, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from star.genome import ChannelMixing, Nonlinearity


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
