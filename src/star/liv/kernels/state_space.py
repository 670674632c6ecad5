"""The convolution kernel of a fixed diagonal state space (Gu et al. 2022, S4D):

    K_l = Re Σ_m w_m exp(l E_m)

for lags l, with exponents E = ΔA and weights w = C B̄. Two tables of about √length powers and one matrix product, by
exp((iJ + j) E) = exp(iJ E) exp(j E). With L_i = w exp(iJ E) and R_j = exp(j E), so that K = Re Lᵀ R, and their
gradients dL and dR: ∂L/∂w = Σ_i dL_i exp(iJ E̅) and ∂L/∂E = Σ_i iJ dL_i L̅_i + Σ_j j dR_j R̅_j. All of that in real
arithmetic: real and imaginary parts are modes of their own, twice as many.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from star.liv.kernels.choice import Kernel


def s4d_kernel(exponent: Tensor, weights: Tensor, length: int) -> Tensor:
    """Re Σ_m w_m exp(l E_m) for lags l < length: exponent E [d, M] in float64 or complex128, because phases grow with
    the lag; weights w [..., d, M], real or complex as it is, in any precision. Returns [..., d, length] in the weights'
    precision."""
    return S4D_KERNEL(exponent, weights, length)


def _reference(exponent: Tensor, weights: Tensor, length: int) -> Tensor:
    """The sum over all modes for every lag, in float64."""
    lags = torch.arange(length, dtype=torch.float64, device=exponent.device)
    terms = weights.to(exponent.dtype).unsqueeze(-1) * torch.exp(exponent.unsqueeze(-1) * lags)
    kernel = terms.sum(-2)
    return (kernel.real if kernel.is_complex() else kernel).to(weights.dtype.to_real())


def powers(exponent: Tensor, count: int, stride: int = 1) -> Tensor:
    """exp(stride · i · E) for i < count: [d, M] → [d, M, count]."""
    lags = torch.arange(count, dtype=torch.float64, device=exponent.device) * stride
    if not exponent.is_complex():
        return torch.exp(exponent.unsqueeze(-1) * lags)
    # Several times faster than a complex exponential.
    size, phase = torch.exp(exponent.real.unsqueeze(-1) * lags), exponent.imag.unsqueeze(-1) * lags
    return torch.complex(size * phase.cos(), size * phase.sin())


def table_size(length: int) -> int:
    """How many powers R_j there are; L_i has as many or fewer."""
    return 1 << ((max(1, length) - 1).bit_length() + 1) // 2


class _Tables(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, exponent: Tensor, weights: Tensor, length: int) -> Tensor:
        columns, dtype = table_size(length), weights.dtype
        rows = -(-length // columns)
        far = powers(exponent, rows, columns).to(dtype)  # d M I
        left, right = _parts(weights.unsqueeze(-1) * far), _parts(powers(exponent, columns).to(dtype))
        ctx.save_for_backward(_parts(far), left, right)
        ctx.exponent = exponent.dtype, exponent.dim()
        ctx.modes = weights.shape[-1]
        return (_conjugate(left, ctx.modes).mT @ right).flatten(-2)[..., :length]  # Re(l r) = Re l Re r - Im l Im r

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_kernel: Tensor) -> tuple[Tensor, Tensor, None]:
        far, left, right = ctx.saved_tensors  # ... d 2M I, and J for right
        rows, columns = left.shape[-1], right.shape[-1]
        padded = functional.pad(d_kernel, (0, rows * columns - d_kernel.shape[-1]))
        gradient = padded.unflatten(-1, (rows, columns))
        d_left, d_right = _conjugate(right @ gradient.mT, ctx.modes), _conjugate(left @ gradient, ctx.modes)
        lags = torch.arange(max(rows, columns), dtype=right.dtype, device=right.device)
        d_weights = _times_conjugate(d_left, far, ctx.modes, torch.ones_like(lags[:rows]))
        d_exponent = _times_conjugate(d_left, left, ctx.modes, lags[:rows] * columns)
        d_exponent = d_exponent + _times_conjugate(d_right, right, ctx.modes, lags[:columns])
        dtype, dimensions = ctx.exponent
        return d_exponent.sum_to_size(d_exponent.shape[-dimensions:]).to(dtype), d_weights, None


def _parts(table: Tensor) -> Tensor:
    """[..., M, n] → real numbers [..., 2M, n]: real parts, then imaginary ones; what is real stays [..., M, n]."""
    return torch.cat([table.real, table.imag], dim=-2) if table.is_complex() else table


def _conjugate(parts: Tensor, modes: int) -> Tensor:
    return torch.cat([parts[..., :modes, :], -parts[..., modes:, :]], dim=-2) if parts.shape[-2] > modes else parts


def _times_conjugate(a: Tensor, b: Tensor, modes: int, factors: Tensor) -> Tensor:
    """Σ_n f_n a_n b̅_n for tables as `_parts` has them: [..., M], complex for 2M rows."""
    if a.shape[-2] == modes:
        return (a * b) @ factors
    a_real, a_imaginary = a.split(modes, dim=-2)
    b_real, b_imaginary = b.split(modes, dim=-2)
    real = torch.addcmul(a_real * b_real, a_imaginary, b_imaginary) @ factors
    return torch.complex(real, torch.addcmul(a_imaginary * b_real, a_real, b_imaginary, value=-1) @ factors)


S4D_KERNEL = Kernel("state-space kernel", _reference, _Tables.apply)
