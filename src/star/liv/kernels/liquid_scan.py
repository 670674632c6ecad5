"""The scan of a liquid state space (Hasani et al. 2023, made causal), for each channel and mode:

h_t = k_t (Ā + B̄ u_t) h_{t-1} + B̄ u_t,    y_t = Re Σ_m C_m h_{t,m}
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from star.liv.kernels.choice import Kernel
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


LIQUID_SCAN = Kernel("liquid scan", _reference, _portable)
