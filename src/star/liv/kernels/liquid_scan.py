"""The scan of a liquid state space (Hasani et al. 2023, made causal), for each channel and mode:

    h_t = a_t h_{t-1} + B̄ u_t,    a_t = k_t (Ā + B̄ u_t),    y_t = Re Σ_m C_m h_{t,m}

where k_t is 1, or 0 where the past is forgotten. With g = ∂L/∂h and conjugates for complex modes,

    g_t = C̅ ∂L/∂y_t + a̅_{t+1} g_{t+1},    ∂L/∂(Ā + B̄ u_t) = k_t g_t h̅_{t-1}.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from star.liv.kernels import native
from star.liv.kernels.choice import Kernel, Native
from star.liv.kernels.rows import Rows, rows_of, spans
from star.liv.kernels.scan import linear_scan, segment_length


def liquid_scan(
    u: Tensor, transition: Tensor, drive: Tensor, readout: Tensor, state: Tensor, keep: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """y_t = Re(C h_t) with h_t = (Ā + B̄ u_t) ⊙ h_{t-1} + B̄ u_t for each channel (Hasani et al. 2023, made causal).

    u: [B, ℓ, D]; transition Ā, drive B̄, readout C: [D, M], real or complex; state: [B, D, M]; keep: [1 or B, ℓ] or
    None, 0 where the past is forgotten. Returns y [B, ℓ, D] and the last state. Works through time in segments, of
    which only the states between them are kept; the rest is recomputed backward.
    """
    return LIQUID_SCAN(u, transition, drive, readout, state, keep)


def _reference(
    u: Tensor, transition: Tensor, drive: Tensor, readout: Tensor, state: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The equation, token by token, in float64."""
    real, whole = u.dtype, state.dtype
    double = torch.complex128 if state.is_complex() else torch.float64
    u, transition, drive, readout, h = u.double(), *(t.to(double) for t in (transition, drive, readout, state))
    y = []
    for t in range(u.shape[1]):
        value = drive * u[:, t, :, None]
        a = transition + value
        if keep is not None:
            a = a * keep[:, t, None, None]
        h = a * h + value
        y.append(real_part_of_product(readout, h))
    return torch.stack(y, 1).to(real), h.to(whole)


def _portable(
    u: Tensor, transition: Tensor, drive: Tensor, readout: Tensor, state: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    step = segment_length(u.shape[0] * transition.numel())
    outputs, h = [], state
    for start in range(0, u.shape[1], step):
        part = (u[:, start : start + step], transition, drive, readout, h)
        mask = None if keep is None else keep[:, start : start + step]
        if torch.is_grad_enabled() and u.shape[1] > step:
            y, h = _Recomputed.apply(*part, mask)
        else:
            y, h = _liquid_segment(*part, mask)
        outputs.append(y)
    return torch.cat(outputs, dim=1), h


class _Recomputed(torch.autograd.Function):
    """A segment of which the inputs alone are kept. (``torch.utils.checkpoint`` would import torch's compiler.)"""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*inputs)
        return _liquid_segment(*inputs)  # type: ignore[arg-type]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad
        inputs = [
            None if tensor is None else tensor.detach().requires_grad_(wanted)
            for tensor, wanted in zip(ctx.saved_tensors, needed, strict=True)
        ]
        with torch.enable_grad():
            outputs = _liquid_segment(*inputs)  # type: ignore[arg-type]
        wanted = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
        pairs = [pair for pair in zip(outputs, (d_y, d_last), strict=True) if pair[0].requires_grad]
        found = iter(torch.autograd.grad([y for y, _ in pairs], wanted, [d for _, d in pairs]))
        return tuple(next(found) if each else None for each in needed)


def _liquid_segment(
    u: Tensor, transition: Tensor, drive: Tensor, readout: Tensor, state: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    value = u.transpose(0, 1).unsqueeze(-1) * drive  # S B D M
    decay = transition + value
    if keep is not None:
        decay = decay * keep.t()[..., None, None]
    h = linear_scan(decay, value, state)
    return real_part_of_product(readout, h).transpose(0, 1), h[-1].clone()  # a view would keep all states


def real_part_of_product(readout: Tensor, h: Tensor) -> Tensor:
    """Σ_m Re(C_m h_m): C [D, M], h [..., D, M] → [..., D]."""
    y = (readout * h).sum(-1)
    return y.real if y.is_complex() else y


class _Sizes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("batch", "length", "channels", "modes", "parts", "threads"))


class _Forward(ctypes.Structure):
    _fields_ = (
        ("size", _Sizes),
        *((name, Rows) for name in ("u", "keep", "y")),
        *((name, ctypes.c_void_p) for name in ("transition", "drive", "readout", "initial", "last", "starts")),
    )


class _Backward(ctypes.Structure):
    _fields_ = (
        ("size", _Sizes),
        *((name, Rows) for name in ("u", "keep", "d_y", "d_u")),
        *((name, ctypes.c_void_p) for name in ("transition", "drive", "readout", "starts", "d_last")),
        *((name, ctypes.c_void_p) for name in ("d_transition", "d_drive", "d_readout", "d_initial")),
    )


SOURCE = "liquid_scan.cpp"


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, transition: Tensor, drive: Tensor, readout: Tensor, state: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        u = native.side_by_side(u)
        modes = [tensor.resolve_conj().contiguous() for tensor in (transition, drive, readout, state)]
        y, last = u.new_empty(u.shape), torch.empty_like(modes[-1])
        size, library = _sizes(u, transition), native.library(SOURCE)
        training = any(ctx.needs_input_grad)
        starts = u.new_empty(library.number("liquid_scan_states", size)) if training else None
        rows = [rows_of(tensor) for tensor in (u, keep, y)]
        library.call("liquid_scan_forward", _Forward(size, *rows, *map(native.address, (*modes, last, starts))))
        ctx.save_for_backward(u, *modes[:3], keep, starts)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        u, transition, drive, readout, keep, starts = ctx.saved_tensors
        d_y, d_last = native.side_by_side(d_y), d_last.resolve_conj().contiguous()
        d_u, gradients = u.new_empty(u.shape), [torch.empty_like(d_last) for _ in range(4)]
        rows = [rows_of(tensor) for tensor in (u, keep, d_y, d_u)]
        others = map(native.address, (transition, drive, readout, starts, d_last, *gradients))
        record = _Backward(_sizes(u, transition), *rows, *others)
        native.library(SOURCE).call("liquid_scan_backward", record)
        return d_u, *(gradient.sum(0) for gradient in gradients[:3]), gradients[3], None


def _sizes(u: Tensor, transition: Tensor) -> _Sizes:
    return _Sizes(*u.shape, transition.shape[1], 2 if transition.is_complex() else 1, torch.get_num_threads())


def _native(
    u: Tensor, transition: Tensor, drive: Tensor, readout: Tensor, state: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    return _Native.apply(u, transition, drive, readout, state, None if keep is None else keep.to(u.dtype))


def _serves(u: Tensor, transition: Tensor, drive: Tensor, readout: Tensor, state: Tensor, keep: Tensor | None) -> bool:
    modes = (transition, drive, readout, state)
    alike = all(one.dtype is transition.dtype and one.device == u.device for one in modes)
    single = transition.dtype in (torch.float32, torch.complex64) and transition.numel() > 0
    fit = transition.shape == drive.shape == readout.shape and state.shape == (u.shape[0], *transition.shape)
    fit = fit and u.shape[2:] == transition.shape[:1] and (keep is None or keep.shape in spans(u))
    return native.readable(u) and alike and single and fit


LIQUID_SCAN = Kernel("liquid scan", _reference, _portable, Native(SOURCE, _native, _serves))
