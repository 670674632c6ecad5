"""Linear recurrences in parallel: h_t = a_t ⊙ h_{t-1} + b_t, and the selective scan built on it (Gu & Dao 2023).

Time is dim 0. A scan works in place on chunks of `CHUNK` steps, all chunks at once, then recursively on the chunk ends,
so the number of tensor operations grows with log ℓ, never with ℓ. Only products of decays are formed (no logarithms, no
divisions), so strong decays underflow to the right answer, zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 16
SEGMENT_ELEMENTS = 1 << 19  # state elements worked on at a time: keeps the working set of a segment inside the cache


def scan_(decay: Tensor, value: Tensor, *, reverse: bool = False) -> None:
    """In place: `value` becomes h with h_t = decay_t ⊙ h_{t-1} + value_t (t+1 for `reverse`), h = 0 outside.

    `decay` and `value` are contiguous [ℓ, …] of one shape; `decay` becomes the product of all decays since the start.
    """
    length = value.shape[0]
    if length < 2 * CHUNK:
        steps = range(length - 2, -1, -1) if reverse else range(1, length)
        for t in steps:
            before = t + 1 if reverse else t - 1
            value[t].addcmul_(decay[t], value[before])
            decay[t].mul_(decay[before])
        return
    whole = length // CHUNK * CHUNK
    # The steps that do not fill a chunk come last in scan order.
    main = slice(length - whole, length) if reverse else slice(0, whole)
    rest = slice(0, length - whole) if reverse else slice(whole, length)
    a = decay[main].unflatten(0, (-1, CHUNK))
    b = value[main].unflatten(0, (-1, CHUNK))
    for j in range(CHUNK - 2, -1, -1) if reverse else range(1, CHUNK):
        before = j + 1 if reverse else j - 1
        b[:, j].addcmul_(a[:, j], b[:, before])
        a[:, j].mul_(a[:, before])
    end = 0 if reverse else CHUNK - 1
    end_decay, end_value = a[:, end].contiguous(), b[:, end].contiguous()
    scan_(end_decay, end_value, reverse=reverse)
    if reverse:
        b[:-1].addcmul_(a[:-1], end_value[1:].unsqueeze(1))
        a[:-1].mul_(end_decay[1:].unsqueeze(1))
    else:
        b[1:].addcmul_(a[1:], end_value[:-1].unsqueeze(1))
        a[1:].mul_(end_decay[:-1].unsqueeze(1))
    if length > whole:
        edge_decay, edge_value = (a[0, 0], b[0, 0]) if reverse else (a[-1, -1], b[-1, -1])
        tail_decay, tail_value = decay[rest], value[rest]
        scan_(tail_decay, tail_value, reverse=reverse)
        tail_value.addcmul_(tail_decay, edge_value)
        tail_decay.mul_(edge_decay)


class _SelectiveScan(torch.autograd.Function):
    """Works through time in segments; keeps only the states between them and recomputes the rest backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor, decay: Tensor, b: Tensor, c: Tensor, state: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        length = x.shape[0]
        step = _segment(x, decay)
        output = torch.empty_like(x)
        starts = []
        h = state
        for start in range(0, length, step):
            part = slice(start, min(start + step, length))
            starts.append(h)
            a, value = _terms(x[part], delta[part], decay, b[part], keep[part] if keep is not None else None)
            value[0].addcmul_(a[0], h)
            scan_(a, value)
            torch.matmul(c[part].unsqueeze(-2), value, out=output[part].unsqueeze(-2))
            h = value[-1].clone()
        ctx.save_for_backward(x, delta, decay, b, c, keep, *starts)
        ctx.step = step
        return output, h

    @staticmethod
    def backward(ctx: Any, d_output: Tensor, d_state: Tensor) -> tuple[Tensor | None, ...]:
        x, delta, decay, b, c, keep, *starts = ctx.saved_tensors
        length, step = x.shape[0], ctx.step
        d_x, d_delta, d_b, d_c = (torch.empty_like(tensor) for tensor in (x, delta, b, c))
        d_decay = torch.zeros_like(decay)
        d_output = d_output.contiguous()
        carry = d_state
        for index in range(len(starts) - 1, -1, -1):
            start = index * step
            part = slice(start, min(start + step, length))
            a, h = _terms(x[part], delta[part], decay, b[part], keep[part] if keep is not None else None)
            h[0].addcmul_(a[0], starts[index])
            scan_(a.clone(), h)
            g = c[part].unsqueeze(-1) * d_output[part].unsqueeze(-2)  # S B N D
            g[-1].add_(carry)
            shifted = torch.empty_like(a)
            shifted[:-1] = a[1:]
            shifted[-1] = 0
            scan_(shifted, g, reverse=True)
            d_c[part] = (h @ d_output[part].unsqueeze(-1)).squeeze(-1)
            scaled = delta[part] * x[part]
            d_b[part] = (g @ scaled.unsqueeze(-1)).squeeze(-1)
            d_scaled = (b[part].unsqueeze(-2) @ g).squeeze(-2)
            carry = a[0] * g[0]
            # g ⊙ a ⊙ h_{t-1}: the gradient of the exponent Δ A.
            g.mul_(a)
            g[1:].mul_(h[:-1])
            g[0].mul_(starts[index])
            d_x[part] = d_scaled * delta[part]
            d_delta[part] = d_scaled * x[part] + (g * decay).sum(-2)
            d_decay += (g * delta[part].unsqueeze(-2)).sum((0, 1))
        return d_x, d_delta, d_decay, d_b, d_c, carry, None


def _terms(x: Tensor, delta: Tensor, decay: Tensor, b: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    a = (delta.unsqueeze(-2) * decay).exp_()  # S B N D
    if keep is not None:
        a *= keep[..., None, None]
    return a, b.unsqueeze(-1) * (delta * x).unsqueeze(-2)


def _segment(x: Tensor, decay: Tensor) -> int:
    steps = SEGMENT_ELEMENTS // max(1, x.shape[1] * decay.numel())
    return max(CHUNK, steps // CHUNK * CHUNK)


def selective_scan(
    x: Tensor, delta: Tensor, decay: Tensor, b: Tensor, c: Tensor, state: Tensor, keep: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """y_t = C_t h_t with h_t = exp(Δ_t A) ⊙ h_{t-1} + Δ_t B_t x_t, per channel (Gu & Dao 2023, eq. 2; B̄ = ΔB).

    x, delta: [B, ℓ, D]; decay A: [D, N], negative; b, c: [B, ℓ, N]; state: [B, N, D], the h before the first position;
    keep: [1 or B, ℓ] or None, 0 where the past is forgotten. Computed in float32, or float64 for float64 input; returns
    y [B, ℓ, D] and the last state [B, N, D].
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    time_first = [tensor.transpose(0, 1).to(dtype).contiguous() for tensor in (x, delta, b, c)]
    x_, delta_, b_, c_ = time_first
    with torch.autocast(x.device.type, enabled=False):
        y, last = _SelectiveScan.apply(
            x_,
            delta_,
            decay.to(dtype).t().contiguous(),
            b_,
            c_,
            state.to(dtype),
            None if keep is None else keep.t().to(dtype),
        )
    return y.transpose(0, 1), last


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor, value: Tensor, state: Tensor) -> Tensor:
        h = value.clone(memory_format=torch.contiguous_format)
        h[0].addcmul_(decay[0], state)
        scan_(decay.clone(memory_format=torch.contiguous_format), h)
        ctx.save_for_backward(decay, state, h)
        return h

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, state, h = ctx.saved_tensors
        g = gradient.clone(memory_format=torch.contiguous_format)
        following = torch.zeros_like(decay, memory_format=torch.contiguous_format)
        following[:-1] = decay[1:].conj()
        scan_(following, g, reverse=True)
        d_decay = g * torch.cat([state.unsqueeze(0), h[:-1]]).conj()
        return d_decay, g, g[0] * decay[0].conj()


def linear_scan(decay: Tensor, value: Tensor, state: Tensor) -> Tensor:
    """All h_t = decay_t ⊙ h_{t-1} + value_t, real or complex. decay, value: [ℓ, …] of one shape; state: […], the h
    before the first position. Returns [ℓ, …]."""
    return _LinearScan.apply(decay, value, state)


def liquid_scan(
    u: Tensor, transition: Tensor, drive: Tensor, readout: Tensor, state: Tensor, keep: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """y_t = Re(C h_t) with h_t = (Ā + B̄ u_t) ⊙ h_{t-1} + B̄ u_t for each channel (Hasani et al. 2023, made causal).

    u: [B, ℓ, D]; transition Ā, drive B̄, readout C: [D, M], real or complex; state: [B, D, M]; keep: [1 or B, ℓ] or
    None, 0 where the past is forgotten. Returns y [B, ℓ, D] and the last state. Works through time in segments, of
    which only the states between them are kept; the rest is recomputed backward.
    """
    step = max(CHUNK, SEGMENT_ELEMENTS // max(1, u.shape[0] * transition.numel()) // CHUNK * CHUNK)
    outputs, h = [], state
    for start in range(0, u.shape[1], step):
        part = (u[:, start : start + step], transition, drive, readout, h)
        mask = None if keep is None else keep[:, start : start + step]
        if torch.is_grad_enabled() and u.shape[1] > step:
            y, h = checkpoint(_liquid_segment, *part, mask, use_reentrant=False)
        else:
            y, h = _liquid_segment(*part, mask)
        outputs.append(y)
    return torch.cat(outputs, dim=1), h


def _liquid_segment(
    u: Tensor, transition: Tensor, drive: Tensor, readout: Tensor, state: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    value = u.transpose(0, 1).unsqueeze(-1) * drive  # S B D M
    decay = transition + value
    if keep is not None:
        decay = decay * keep.t()[..., None, None]
    h = linear_scan(decay, value, state)
    return real_part_of_product(readout, h).transpose(0, 1), h[-1]


def real_part_of_product(readout: Tensor, h: Tensor) -> Tensor:
    """Σ_m Re(C_m h_m): C [D, M], h [..., D, M] → [..., D]."""
    y = (readout * h).sum(-1)
    return y.real if y.is_complex() else y
