"""Linear maps of channels by structure, elementwise nonlinearities, and the mark of parameters without weight decay."""

from __future__ import annotations

from math import gcd, isqrt, sqrt
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.module import _has_any_global_hook

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


def of_state_space(parameter: nn.Parameter) -> nn.Parameter:
    """Mark a parameter that sets the time scales of a fixed state space (A, B, Δ): no weight decay, and a learning rate
    of its own (Gu et al. 2022)."""
    parameter.of_state_space = True  # type: ignore[attr-defined]
    return undecayed(parameter)


def hooked(module: nn.Module) -> bool:
    """Whether something is to happen when a module is called, other than the forward of its class."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or module._compiled_call_impl is not None
        or "forward" in module.__dict__
        or _has_any_global_hook()
    )


class Dense(nn.Module):
    """y = W x. weight: [out, in], normal with variance 1/(3 in) as torch's own linear layer has it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=1 / sqrt(3 * self.weight.shape[1]))

    @property
    def first(self) -> Tensor:
        """The weights of x itself: [out, in]."""
        return self.weight

    def rest(self, y: Tensor) -> Tensor:
        """What remains to be done after the product with `first`: nothing."""
        return y

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


class Monarch(nn.Module):
    """y = L P R x: two block-diagonal factors with a fixed permutation between (Dao et al. 2022), for any width.

    R has k blocks of the inputs, each with q outputs; P hands output c of every block of R to block c of L, which has
    outputs/q of y. So every output sees every input on one path, with q·inputs + k·outputs weights: about 2 d^1.5 for a
    square map. k and q are the largest divisors of inputs and outputs up to their square roots. The product starts with
    the variance of `Dense`, 1/(3 inputs).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        k, q = _root_divisor(inputs), _root_divisor(outputs)
        self.right = nn.Parameter(torch.empty(k, inputs // k, q))
        self.weight = nn.Parameter(torch.empty(q, k, outputs // q))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.right, std=self.right.shape[1] ** -0.5)
        nn.init.normal_(self.weight, std=(3 * self.weight.shape[1]) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        blocks = x.reshape(-1, *self.right.shape[:2]).transpose(0, 1)  # ... (k i) -> k n i
        mixed = torch.bmm(blocks, self.right).permute(2, 1, 0)  # k n q -> q n k
        y = torch.bmm(mixed, self.weight).transpose(0, 1)  # q n o -> n q o
        return y.reshape(*x.shape[:-1], -1)


def _root_divisor(count: int) -> int:
    """The largest divisor that is not above the square root."""
    return next(divisor for divisor in range(isqrt(count), 0, -1) if count % divisor == 0)


def channel_map(mixing: ChannelMixing, inputs: int, outputs: int, blocks: int) -> nn.Module:
    """The linear map with a channel-mixing structure."""
    match mixing:
        case ChannelMixing.GROUPED:
            return Grouped(inputs, outputs, blocks)
        case ChannelMixing.DIAGONAL:
            return Diagonal(inputs, outputs)
        case ChannelMixing.MONARCH:
            return Monarch(inputs, outputs)
        case _:
            return Dense(inputs, outputs)


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

    @property
    def first(self) -> Tensor:
        """The weights of x itself: [r, in]."""
        return self.reduce.weight

    def rest(self, y: Tensor) -> Tensor:
        """What remains to be done after the product with `first`."""
        return cast(Tensor, self.expand(y))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.reduce(x))
