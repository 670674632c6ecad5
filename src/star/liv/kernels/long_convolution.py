"""The long causal depthwise convolution y_t = Σ_{s ≤ t} K_{t-s} ⊙ x_s, by FFT."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from star.liv.kernels.choice import Kernel
from star.liv.kernels.projections import without_autocast


def long_convolution(x: Tensor, kernel: Tensor) -> Tensor:
    """y_t = Σ_{s ≤ t} kernel[:, t-s] ⊙ x_s by FFT, in float32 or better.

    x: [B, ℓ, D]; kernel: [D or 1, n] with n ≤ ℓ or longer (the excess is unused). Returns [B, ℓ, D] in x's dtype.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    with without_autocast(x):
        return LONG_CONVOLUTION(x.to(dtype), kernel[:, : x.shape[1]].to(dtype)).to(x.dtype)


def _reference(x: Tensor, kernel: Tensor) -> Tensor:
    """The sum, lag by lag, in float64."""
    double, y = x.double(), torch.zeros_like(x, dtype=torch.float64)
    for lag in range(kernel.shape[1]):
        y = y + functional.pad(double[:, : x.shape[1] - lag], (0, 0, lag, 0)) * kernel[:, lag].double()
    return y.to(x.dtype)


class _Long(torch.autograd.Function):
    """Convolution by FFT over the last dimension; keeps the spectra, so that backward transforms only gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        ctx.length, ctx.taps = x.shape[1], kernel.shape[1]
        ctx.size = _fast_size(ctx.length + ctx.taps - 1)
        spectrum, response = _spectrum(x, ctx.size), torch.fft.rfft(kernel, n=ctx.size)
        ctx.save_for_backward(spectrum, response)
        y = torch.fft.irfft(spectrum * response, n=ctx.size)
        return y[..., : ctx.length].transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Convolutions with what is reversed in time, whose spectra are the conjugates."""
        spectrum, response = ctx.saved_tensors
        own = _spectrum(gradient, ctx.size)
        d_x = d_kernel = None
        if ctx.needs_input_grad[1]:
            product = (own * spectrum.conj()).sum(0)
            if response.shape[0] == 1:
                product = product.sum(0, keepdim=True)
            d_kernel = torch.fft.irfft(product, n=ctx.size)[:, : ctx.taps]
        if ctx.needs_input_grad[0]:
            d_x = torch.fft.irfft(own.mul_(response.conj()), n=ctx.size)[..., : ctx.length].transpose(1, 2)
        return d_x, d_kernel


def _spectrum(x: Tensor, size: int) -> Tensor:
    """x: [B, ℓ, D] → [B, D, size / 2 + 1]. Transposed and padded in one copy; a transform of strided x is slow."""
    padded = x.new_zeros(x.shape[0], x.shape[2], size)
    padded[..., : x.shape[1]] = x.transpose(1, 2)
    return torch.fft.rfft(padded)


def _fast_size(minimum: int) -> int:
    """The smallest 2^a, 3·2^a or 5·2^a that is at least `minimum`."""
    sizes = []
    for odd in (1, 3, 5):
        size = odd
        while size < minimum:
            size *= 2
        sizes.append(size)
    return min(sizes)


LONG_CONVOLUTION = Kernel("long convolution", _reference, _Long.apply)
