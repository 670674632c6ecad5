"""The selective scan (Gu & Dao 2023, eq. 2; B̄ = ΔB), the recurrence of Mamba, with its skip D and its gate z:

    h_t = k_t exp(Δ_t A) ⊙ h_{t-1} + Δ_t B_t x_t,    y_t = z_t ⊙ (C_t h_t + D x_t)

for each channel, with a diagonal A of N elements; k_t is 1, or 0 where the past is forgotten. With g = ∂L/∂h,

    g_t = C_t ⊗ (z_t ⊙ ∂L/∂y_t) + k_{t+1} exp(Δ_{t+1} A) ⊙ g_{t+1},
    ∂L/∂(Δ_t A) = g_t ⊙ k_t exp(Δ_t A) ⊙ h_{t-1}.

All implementations take what `SELECTIVE_SCAN` takes. They keep h only at the ends of segments of time and recompute the
rest backward, so that memory grows with ℓ d, hardly with ℓ d N. The native one also takes the softplus of Δ, the skip
and the gate in the same pass over memory; elsewhere they are operations of their own.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from star.liv.kernels import native, triton
from star.liv.kernels.choice import Implementation, Kernel, Native, Triton
from star.liv.kernels.portable_scan import PortableScan
from star.liv.kernels.projections import without_autocast
from star.liv.kernels.rows import Rows, rows_of, spans


def selective_scan(
    x: Tensor,
    delta: Tensor,
    decay: Tensor,
    b: Tensor,
    c: Tensor,
    state: Tensor,
    keep: Tensor | None = None,
    *,
    skip: Tensor | None = None,
    gate: Tensor | None = None,
    raw: bool = False,
) -> tuple[Tensor, Tensor]:
    """y_t = z_t ⊙ (C_t h_t + D x_t) with h_t = exp(Δ_t A) ⊙ h_{t-1} + Δ_t B_t x_t, channel by channel.

    x, delta: [B, ℓ, D]; decay A: [D, N], negative; b, c: [B, ℓ, N]; state: [B, N, D], the h before the first position;
    keep: [1 or B, ℓ] or None, 0 where the past is forgotten; skip D: [D], none is 0; gate z: [B, ℓ, D], none is 1;
    raw: Δ is the softplus of `delta`. Computed in float32, or float64 for float64 input; returns y [B, ℓ, D] and the
    last state [B, N, D].
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    tensors: tuple[Tensor | None, ...] = (x, delta, decay, b, c, state, keep, skip, gate)
    mixed = any(tensor is not None and tensor.dtype is not dtype for tensor in tensors)
    if mixed and SELECTIVE_SCAN.chosen(*tensors, raw) is not Implementation.TRITON:  # which reads what it is given
        tensors = tuple(tensor if tensor is None else tensor.to(dtype) for tensor in tensors)
    with without_autocast(x):
        y, last = SELECTIVE_SCAN(*tensors, raw)
    return y, last


def finished(y: Tensor, x: Tensor, skip: Tensor | None, gate: Tensor | None) -> Tensor:
    """z ⊙ (y + D x), in the precision of y."""
    if skip is not None:
        y = torch.addcmul(y, skip.to(y.dtype), x.to(y.dtype))
    return y if gate is None else y * gate.to(y.dtype)


def _reference(
    x: Tensor,
    delta: Tensor,
    decay: Tensor,
    b: Tensor,
    c: Tensor,
    state: Tensor,
    keep: Tensor | None,
    skip: Tensor | None,
    gate: Tensor | None,
    raw: bool,
) -> tuple[Tensor, Tensor]:
    """The equation, token by token, in float64."""
    given = x.dtype
    x, delta, decay, b, c, h = (tensor.double() for tensor in (x, delta, decay, b, c, state))
    if raw:
        delta = torch.logaddexp(delta, torch.zeros_like(delta))  # log(e^Δ + 1)
    y = []
    for t in range(x.shape[1]):
        a = torch.exp(delta[:, t, None, :] * decay.t())  # B N D
        if keep is not None:
            a = a * keep[:, t, None, None]
        h = a * h + b[:, t, :, None] * (delta[:, t] * x[:, t]).unsqueeze(1)
        y.append((c[:, t, :, None] * h).sum(1))
    return finished(torch.stack(y, 1), x, skip, gate).to(given), h.to(given)


def _portable(
    x: Tensor,
    delta: Tensor,
    decay: Tensor,
    b: Tensor,
    c: Tensor,
    state: Tensor,
    keep: Tensor | None,
    skip: Tensor | None,
    gate: Tensor | None,
    raw: bool,
) -> tuple[Tensor, Tensor]:
    if raw:
        delta = functional.softplus(delta)
    y, last = PortableScan.apply(x, delta, decay.t().contiguous(), b, c, state, keep)
    return finished(y, x, skip, gate), last


class _Sizes(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64) for name in ("batch", "length", "channels", "states", "chunk", "group", "threads", "raw")
    )


class _Forward(ctypes.Structure):
    _fields_ = (
        ("size", _Sizes),
        *((name, Rows) for name in ("x", "delta", "b", "c", "keep", "gate", "y")),
        *((name, ctypes.c_void_p) for name in ("decay", "skip", "initial", "last", "starts")),
    )


class _Backward(ctypes.Structure):
    _fields_ = (
        ("size", _Sizes),
        *((name, Rows) for name in ("x", "delta", "b", "c", "keep", "gate", "d_y", "d_x", "d_delta", "d_gate")),
        *((name, ctypes.c_void_p) for name in ("decay", "skip", "starts", "d_last")),
        *((name, ctypes.c_void_p) for name in ("d_b", "d_c", "d_decay", "d_skip", "d_initial")),
    )


SOURCE = "selective_scan.cpp"
NATIVE_CHUNK = 16  # steps between kept states: for usual N, a chunk of a block of channels fits the first-level cache
GROUP = 768  # channels that one thread works through, whatever the number of threads, so that it changes no result


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        delta: Tensor,
        decay: Tensor,
        b: Tensor,
        c: Tensor,
        state: Tensor,
        keep: Tensor | None,
        skip: Tensor | None,
        gate: Tensor | None,
        raw: bool,
    ) -> tuple[Tensor, Tensor]:
        x, delta, b, c = (native.side_by_side(tensor) for tensor in (x, delta, b, c))
        gate = gate if gate is None else native.side_by_side(gate)
        skip = skip if skip is None else skip.contiguous()
        decay, state = decay.t().contiguous(), state.contiguous()
        y, last = x.new_empty(x.shape), torch.empty_like(state)
        size = _sizes(x, decay, raw)
        library = native.library(SOURCE)
        training = any(ctx.needs_input_grad)
        starts = x.new_empty(library.number("selective_scan_states", size)) if training else None
        rows = map(rows_of, (x, delta, b, c, keep, gate, y))
        others = map(native.address, (decay, skip, state, last, starts))
        library.call("selective_scan_forward", _Forward(size, *rows, *others))
        ctx.save_for_backward(x, delta, decay, b, c, keep, skip, gate, starts)
        ctx.raw = raw
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        x, delta, decay, b, c, keep, skip, gate, starts = ctx.saved_tensors
        d_y, d_last = native.side_by_side(d_y), d_last.contiguous()
        size = _sizes(x, decay, ctx.raw)
        d_x, d_delta = x.new_empty(x.shape), x.new_empty(x.shape)
        d_gate = None if gate is None else x.new_empty(x.shape)
        d_b, d_c = (x.new_empty(-(-size.channels // size.group), *b.shape) for _ in range(2))
        d_decay, d_state = torch.empty_like(d_last), torch.empty_like(d_last)
        d_skip = None if skip is None else x.new_zeros(x.shape[0], *skip.shape)
        rows = map(rows_of, (x, delta, b, c, keep, gate, d_y, d_x, d_delta, d_gate))
        others = map(native.address, (decay, skip, starts, d_last, d_b, d_c, d_decay, d_skip, d_state))
        native.library(SOURCE).call("selective_scan_backward", _Backward(size, *rows, *others))
        d_b, d_c = (one[0] if one.shape[0] == 1 else one.sum(0) for one in (d_b, d_c))
        d_skip = None if d_skip is None else d_skip.sum(0)
        return d_x, d_delta, d_decay.sum(0).t(), d_b, d_c, d_state, None, d_skip, d_gate, None


def _sizes(x: Tensor, decay: Tensor, raw: bool) -> _Sizes:
    return _Sizes(*x.shape, decay.shape[0], NATIVE_CHUNK, GROUP, torch.get_num_threads(), raw)


def _serves(*inputs: Any) -> bool:
    x, delta, decay, b, c, state, keep, skip, gate, _ = inputs
    (batch, length, channels), states = x.shape, decay.shape[1]
    fit = delta.shape == x.shape and b.shape == c.shape == (batch, length, states)
    fit = fit and decay.shape == (channels, states) and state.shape == (batch, states, channels)
    fit = fit and (keep is None or keep.shape in spans(x)) and (skip is None or skip.shape == (channels,))
    fit = fit and (gate is None or gate.shape == x.shape)
    return fit and all(one is None or native.readable(one) for one in inputs[:-1])


MOST_STATES = 64  # that a Triton program has registers for


def _triton_serves(*inputs: Any) -> bool:
    x, delta, decay, b, c, state, _, skip, gate, _ = inputs
    return decay.shape[1] <= MOST_STATES and triton.readable(x, delta, decay, b, c, state, skip, gate)


SELECTIVE_SCAN = Kernel(
    "selective scan",
    _reference,
    _portable,
    Native(SOURCE, _Native.apply, _serves),
    Triton("selective_scan", "selective_scan", _triton_serves),
)
