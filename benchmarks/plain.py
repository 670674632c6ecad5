"""Candidates trained in plain PyTorch: each operator in the form that textbooks and peers write it, all gradients by
autograd, the loss from whole logits. The search's throughput is compared with it; as a trial: `plain:train_candidate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

import star.liv.featurizer
import star.liv.operator
from star.liv.kernels import Kernel
from star.liv.kernels.attention import turned
from star.lm import LanguageModel
from star.synthesis.trial import Outcome, Report, Trial
from star.synthesis.trial import train_candidate as train


def attention(q: Tensor, k: Tensor, v: Tensor, position: int | None = None) -> Tensor:
    """PyTorch's own, keys and values repeated for their queries."""
    q, k = turned(q, k, position)
    repeats = q.shape[1] // k.shape[1]
    k, v = (tensor.repeat_interleave(repeats, dim=1) for tensor in (k, v))
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def selective_scan(
    x: Tensor,
    delta: Tensor,
    decay: Tensor,
    b: Tensor,
    c: Tensor,
    state: Tensor,
    keep: Tensor | None = None,
    skip: Tensor | None = None,
    gate: Tensor | None = None,
    raw: bool = False,
) -> tuple[Tensor, Tensor]:
    """All decays and inputs written out, and mambapy's parallel scan over them; without it, token by token."""
    delta = functional.softplus(delta) if raw else delta
    a = torch.exp(delta.unsqueeze(-1) * decay)  # B L D N
    if keep is not None:
        a = a * keep[..., None, None]
    value = (delta * x).unsqueeze(-1) * b.unsqueeze(2)
    value = torch.cat([value[:, :1] + a[:, :1] * state.transpose(1, 2).unsqueeze(1), value[:, 1:]], 1)
    h = recurrence(a, value)
    y = (h @ c.unsqueeze(-1)).squeeze(-1)
    y = y if skip is None else y + skip * x
    return y if gate is None else y * gate, h[:, -1].transpose(1, 2)


def recurrence(a: Tensor, value: Tensor) -> Tensor:
    """h_t = a_t h_{t-1} + value_t along dim 1."""
    try:
        from mambapy.pscan import pscan
    except ImportError:
        h, steps = torch.zeros_like(value[:, 0]), []
        for t in range(a.shape[1]):
            h = a[:, t] * h + value[:, t]
            steps.append(h)
        return torch.stack(steps, 1)
    return pscan(a, value)


def norm(
    x: Tensor, update: Tensor | None, weight: Tensor, epsilon: float, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    total = x if update is None else x + update
    return total, functional.rms_norm(total, weight.shape, weight, epsilon).to(dtype or x.dtype)


def gated_unit(gate: Tensor, up: Tensor) -> Tensor:
    return functional.silu(gate) * up


def short_convolution(x: Tensor, weight: Tensor, tail: Tensor | None = None) -> Tensor:
    """nn.Conv1d over the transposed sequence."""
    taps = weight.shape[1]
    padded = x if tail is None else torch.cat([tail.to(x.dtype), x], 1)
    padded = functional.pad(padded.transpose(1, 2), (taps - 1 + x.shape[1] - padded.shape[1], 0))
    weight = weight.expand(x.shape[2], -1).unsqueeze(1)
    return functional.conv1d(padded, weight, groups=x.shape[2]).transpose(1, 2)


def gated_short_convolution(x: Tensor, gate_in: Tensor, gate_out: Tensor, weight: Tensor) -> Tensor:
    return gate_out * short_convolution(gate_in * x, weight)


def long_convolution(x: Tensor, kernel: Tensor) -> Tensor:
    """By FFT over time as it lies."""
    size = 2 * x.shape[1]
    spectrum = torch.fft.rfft(x, n=size, dim=1) * torch.fft.rfft(kernel[:, : x.shape[1]], n=size).t()
    return torch.fft.irfft(spectrum, n=size, dim=1)[:, : x.shape[1]]


def resample(values: Tensor, shift: Tensor) -> Tensor:
    """Two gathers and a linear interpolation."""
    size, length = values.shape[1], shift.shape[1]
    lag = shift.floor().clamp(max=size - length - 1)
    place = torch.arange(size - length, size, device=shift.device)[:, None] - lag.long()
    return torch.lerp(values.gather(1, place), values.gather(1, place - 1), shift - lag)


#: By the name of the kernel; others run in this library's portable form.
FORMS: dict[str, Callable[..., Any]] = {
    "softmax attention": attention,
    "selective scan": selective_scan,
    "RMS norm": norm,
    "gated unit": gated_unit,
    "short convolution": short_convolution,
    "gated short convolution": gated_short_convolution,
    "long convolution": long_convolution,
    "resampling": resample,
}


def _call(kernel: Kernel, *inputs: Any) -> Any:
    return FORMS.get(kernel.name, kernel.portable)(*inputs)


def _loss(model: LanguageModel, tokens: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())


@contextmanager
def plain() -> Iterator[None]:
    """Within this block models compute in these forms."""
    with (
        mock.patch.object(Kernel, "__call__", _call),
        mock.patch.object(LanguageModel, "loss", _loss),
        mock.patch.object(star.liv.featurizer, "joined", return_value=False),
        mock.patch.object(star.liv.operator, "joined", return_value=False),
    ):
        yield


def train_candidate(trial: Trial, report: Report) -> Outcome:
    """A candidate's training and evaluation in these forms."""
    with plain():
        return train(trial, report)
