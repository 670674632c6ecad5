"""Convolution kernels K: explicit taps, and filters that are a function of the lag."""

from __future__ import annotations

from math import log, pi, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from star.liv.kernels.projections import without_autocast
from star.liv.maps import undecayed
from star.liv.sizes import SHORT_TAPS


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
        with without_autocast(self.last):
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
