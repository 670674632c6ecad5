"""The operators of ``operators.py``: for each, inputs of a size, and the ways to compute it, the peer first.

A peer is what one would write without this library: a module of PyTorch's, another package, or the equation as a few
tensor operations.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import pi, sqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from star.liv.kernels import forced
from star.liv.kernels.attention import causal_attention
from star.liv.kernels.convolution import gated_short_convolution
from star.liv.kernels.linear_attention import linear_attention
from star.liv.kernels.liquid_scan import liquid_scan
from star.liv.kernels.long_convolution import long_convolution
from star.liv.kernels.resample import resample
from star.liv.kernels.rotary import BASE, rotate
from star.liv.kernels.selective_scan import selective_scan
from star.liv.kernels.state_space import s4d_kernel
from star.liv.sizes import SHORT_TAPS, head_size

QUERIES_PER_KEY = 4
STATES = 16  # N of a liquid state space
MODES = 32  # of a fixed state space with N = 64
WINDOW = 64  # tokens that the Deformer reaches back

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Variant:
    """One way to compute an operator; `needs`: the module of a peer."""

    name: str
    function: Function
    needs: str | None = None

    @property
    def installed(self) -> bool:
        return self.needs is None or importlib.util.find_spec(self.needs) is not None


@dataclass(frozen=True)
class Operator:
    """`inputs(width, length, batch)` gives what all variants take: tensors, whose gradients are wanted, and numbers.
    The first installed variant is what the others are compared with. `output`: the shape of what comes out."""

    name: str
    inputs: Callable[[int, int, int], Sequence[Any]]
    variants: tuple[Variant, ...]
    output: Callable[[Sequence[Any]], Sequence[int]] = lambda inputs: inputs[0].shape

    def drawn(self, size: tuple[int, int, int]) -> tuple[Sequence[Any], Tensor]:
        """Inputs of a size, and the gradient of the output."""
        inputs = self.inputs(*size)
        for one in inputs:
            if isinstance(one, Tensor):
                one.requires_grad_()
        return inputs, torch.randn(*self.output(inputs))


def ours(implementation: str, function: Function) -> Variant:
    def run(*inputs: Any) -> Tensor:
        with forced(implementation):
            return function(*inputs)

    return Variant(implementation, run)


def scan_inputs(width: int, length: int, batch: int, states: int) -> Sequence[Tensor]:
    """x, Δ, A, B and C as in a fresh model."""
    delta = torch.rand(batch, length, width) * 0.1
    decay = -torch.arange(1, states + 1).float().expand(width, states)
    return torch.randn(batch, length, width), delta, decay, *torch.randn(2, batch, length, states).unbind()


def our_scan(x: Tensor, delta: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return selective_scan(x, delta, decay, b, c, x.new_zeros(x.shape[0], decay.shape[1], x.shape[2]))[0]


def mambapy_scan(x: Tensor, delta: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The same equation with the peer's parallel scan, which takes decays and inputs written out [B, ℓ, D, N]."""
    from mambapy.pscan import pscan

    h = pscan(torch.exp(delta.unsqueeze(-1) * decay), (delta * x).unsqueeze(-1) * b.unsqueeze(2))
    return (h @ c.unsqueeze(-1)).squeeze(-1)


def attention_inputs(width: int, length: int, batch: int) -> Sequence[Tensor]:
    """q, k and v of a grouped-query attention, [B, heads, ℓ, head size] as views of [B, ℓ, width]."""
    size = head_size(width, QUERIES_PER_KEY)
    heads = width // size
    counts = (heads, heads // QUERIES_PER_KEY, heads // QUERIES_PER_KEY)
    return tuple(torch.randn(batch, length, count, size).transpose(1, 2) for count in counts)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (tensor.repeat_interleave(QUERIES_PER_KEY, dim=1) for tensor in (k, v))
    future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    return (q @ k.transpose(-1, -2) / sqrt(q.shape[-1])).masked_fill(future, float("-inf")).softmax(-1) @ v


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def liquid_inputs(width: int, length: int, batch: int) -> Sequence[Tensor]:
    """u, Ā, B̄ and C with |Ā + B̄u| < 1, as the LIV keeps it."""
    transition = torch.rand(width, STATES)
    drive = 0.9 * (1 - transition) * torch.rand(width, STATES)
    return torch.randn(batch, length, width).tanh(), transition, drive, torch.randn(width, STATES)


def our_liquid_scan(u: Tensor, transition: Tensor, drive: Tensor, readout: Tensor) -> Tensor:
    return liquid_scan(u, transition, drive, readout, u.new_zeros(u.shape[0], *transition.shape))[0]


def heads_inputs(width: int, length: int, batch: int) -> Sequence[Tensor]:
    """q, k and v of as many heads, [B, heads, ℓ, head size] as views of [B, ℓ, width]."""
    size = head_size(width)
    return tuple(torch.randn(batch, length, width // size, size).transpose(1, 2) / sqrt(size) for _ in range(3))


def quadratic_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2)).tril() @ v


def gated_inputs(width: int, length: int, batch: int) -> Sequence[Tensor]:
    """x, B, C and taps."""
    return *torch.randn(3, batch, length, width).unbind(), torch.randn(width, SHORT_TAPS)


def conv1d(x: Tensor, gate_in: Tensor, gate_out: Tensor, weight: Tensor) -> Tensor:
    """A depthwise nn.Conv1d between two products."""
    padded = functional.pad((gate_in * x).transpose(1, 2), (weight.shape[1] - 1, 0))
    return gate_out * functional.conv1d(padded, weight.unsqueeze(1), groups=weight.shape[0]).transpose(1, 2)


def long_inputs(width: int, length: int, batch: int) -> Sequence[Tensor]:
    return torch.randn(batch, length, width), torch.randn(width, length)


def fft_over_time(x: Tensor, kernel: Tensor) -> Tensor:
    size = 2 * x.shape[1]
    product = torch.fft.rfft(x, n=size, dim=1) * torch.fft.rfft(kernel.t(), n=size, dim=0)
    return torch.fft.irfft(product, n=size, dim=1)[:, : x.shape[1]]


def state_space_inputs(width: int, length: int, batch: int) -> Sequence[Any]:
    """ΔA, C B̄ and the length, as in a fresh model."""
    step = torch.rand(width, 1, dtype=torch.float64) * 0.1
    modes = torch.complex(torch.full((MODES,), -0.5).double(), pi * torch.arange(MODES).double())
    return step * modes, torch.randn(width, MODES, dtype=torch.complex64), length


def direct_kernel(exponent: Tensor, weights: Tensor, length: int) -> Tensor:
    """All powers written out, [d, modes, ℓ]."""
    powers = torch.exp(exponent.to(weights.dtype).unsqueeze(-1) * torch.arange(length))
    return torch.einsum("dm,dml->dl", weights, powers).real


def resampling_inputs(width: int, length: int, batch: int) -> Sequence[Tensor]:
    """Values with a window of zeros before them, and shifts of all sizes up to it."""
    values = functional.pad(torch.randn(batch, length, width), (0, 0, WINDOW, 0))
    return values, WINDOW * torch.rand(batch, length, width)


def gather_and_lerp(values: Tensor, shift: Tensor) -> Tensor:
    lead, lag = WINDOW, shift.floor()
    place = torch.arange(lead, values.shape[1]).view(1, -1, 1) - lag.long()
    return torch.lerp(values.gather(1, place), values.gather(1, place - 1), shift - lag)


def rotary_inputs(width: int, length: int, batch: int) -> Sequence[Tensor]:
    size = head_size(width)
    return (torch.randn(batch, length, width // size, size),)


def rotate_half(x: Tensor) -> Tensor:
    """Pairs (i, i + size / 2), with tables of cosines and sines made once."""
    cosine, sine = _tables(x.shape[1], x.shape[3])
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


@cache
def _tables(length: int, size: int) -> tuple[Tensor, Tensor]:
    angle = torch.outer(torch.arange(length).double(), BASE ** (-torch.arange(0, size, 2).double() / size))
    angle = torch.cat([angle, angle], dim=-1).unsqueeze(1)
    return angle.cos().float(), angle.sin().float()


def _rotate(x: Tensor) -> Tensor:
    return rotate(x, 0)


def _both(function: Function) -> tuple[Variant, ...]:
    return ours("portable", function), ours("native", function)


def _scan(states: int) -> Operator:
    variants = (Variant("mambapy", mambapy_scan, needs="mambapy"), *_both(our_scan))
    return Operator(f"selective scan, N={states}", partial(scan_inputs, states=states), variants)


OPERATORS = (
    _scan(16),
    _scan(2),
    Operator(
        "softmax attention",
        attention_inputs,
        (
            Variant("SDPA, enable_gqa", sdpa),
            Variant("explicit", explicit_attention),
            ours("native", causal_attention),
        ),
    ),
    Operator(
        "linear attention",
        heads_inputs,
        (Variant("quadratic", quadratic_attention), *_both(linear_attention)),
    ),
    Operator("rotary embedding", rotary_inputs, (Variant("rotate-half", rotate_half), ours("portable", _rotate))),
    Operator("liquid scan", liquid_inputs, _both(our_liquid_scan)),
    Operator("gated short convolution", gated_inputs, (Variant("conv1d", conv1d), *_both(gated_short_convolution))),
    Operator(
        "long convolution", long_inputs, (Variant("FFT over dim 1", fft_over_time), ours("portable", long_convolution))
    ),
    Operator(
        "state-space kernel",
        state_space_inputs,
        (Variant("all powers", direct_kernel), ours("portable", s4d_kernel)),
        output=lambda inputs: (inputs[0].shape[0], inputs[2]),
    ),
    Operator(
        "resampling",
        resampling_inputs,
        (Variant("gather and lerp", gather_and_lerp), *_both(resample)),
        output=lambda inputs: inputs[1].shape,
    ),
)
