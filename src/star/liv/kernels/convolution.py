"""Causal depthwise convolutions, short (by shifts) and long (by FFT)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def short_convolution(x: Tensor, weight: Tensor, tail: Tensor | None = None) -> Tensor:
    """y_t = Σ_k weight[:, k] ⊙ x_{t-n+1+k}, n taps, the last one on the present token.

    x: [B, ℓ, D]; weight: [D or 1, n]; tail: [B, up to n-1, D], the inputs before x (zeros where there is none; a state
    for a single token holds fewer than n-1). Returns [B, ℓ, D].
    """
    taps, length = weight.shape[1], x.shape[1]
    padded = x if tail is None else torch.cat([tail.to(x.dtype), x], dim=1)
    if (missing := taps - 1 + length - padded.shape[1]) > 0:
        padded = functional.pad(padded, (0, 0, missing, 0))
    y = x * weight[:, taps - 1]
    for k in range(taps - 1):
        y = torch.addcmul(y, padded[:, k : k + length], weight[:, k])
    return y


def long_convolution(x: Tensor, kernel: Tensor) -> Tensor:
    """y_t = Σ_{s ≤ t} kernel[:, t-s] ⊙ x_s by FFT, in float32 or better.

    x: [B, ℓ, D]; kernel: [D or 1, n] with n ≤ ℓ or longer (the excess is unused). Returns [B, ℓ, D] in x's dtype.
    """
    length = x.shape[1]
    kernel = kernel[:, :length]
    size = _fast_size(length + kernel.shape[1] - 1)
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        spectrum = torch.fft.rfft(x.to(dtype).transpose(1, 2), n=size)
        response = torch.fft.rfft(kernel.to(dtype), n=size)
        y = torch.fft.irfft(spectrum * response, n=size)[..., :length]
    return y.transpose(1, 2).to(x.dtype)


def _fast_size(minimum: int) -> int:
    """The smallest 2^a, 3·2^a or 5·2^a that is at least `minimum`."""
    sizes = []
    for odd in (1, 3, 5):
        size = odd
        while size < minimum:
            size *= 2
        sizes.append(size)
    return min(sizes)
