"""Fixed diagonal state spaces (Gu et al. 2022, S4D): one set of parameters, seen as a kernel and as a recurrence.

x' = A x + B u, y = Re(C x) + D u for each channel, sampled with step Δ by zero-order hold: Ā = exp(ΔA) and
B̄ = (Ā - 1)/A · B, so that the kernel is K_l = Re(C Ā^l B̄), plus D at l = 0, and the recurrence
x_t = Ā x_{t-1} + B̄ u_t. A = -exp(a) + iω stays stable. Of pairs of conjugate modes one is kept and counted twice.
"""

from __future__ import annotations

from math import log, pi, sqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn

from star.genome import StateSpace
from star.liv.kernels.liquid_scan import real_part_of_product
from star.liv.kernels.projections import without_autocast
from star.liv.kernels.state_space import powers, s4d_kernel, table_size
from star.liv.maps import of_state_space, undecayed
from star.liv.shift import spread_

STEP_RANGE = (1e-3, 0.1)  # Δ at initialisation is log-uniform in this range (Gu & Dao 2023)


class Modes(nn.Module):
    """A of each channel, [channels, M]: N real modes or N/2 complex ones."""

    def __init__(self, space: StateSpace, channels: int, size: int) -> None:
        super().__init__()
        self.space = space
        count = size // 2 if space is StateSpace.LIN else size
        self.log_decay = of_state_space(nn.Parameter(torch.empty(channels, count)))
        self.frequency = of_state_space(nn.Parameter(torch.empty(channels, count))) if self.paired else None
        self.reset_parameters()

    @property
    def paired(self) -> bool:
        """Whether each mode stands for two, complex conjugates."""
        return self.space is StateSpace.LIN

    def reset_parameters(self) -> None:
        with torch.no_grad():
            ramp = torch.arange(self.log_decay.shape[1], dtype=torch.float32, device="cpu")  # on meta it is slow
            if self.frequency is not None:
                self.log_decay.fill_(log(0.5))
                self.frequency.copy_((pi * ramp).expand_as(self.frequency))
            else:
                self.log_decay.copy_((ramp + 1).log().expand_as(self.log_decay))

    def forward(self) -> Tensor:
        """In float64 or complex128: phases grow with the lag."""
        decay = -torch.exp(self.log_decay.double())
        return decay if self.frequency is None else torch.complex(decay, self.frequency.double())


class Vector(nn.Module):
    """What one feature group of a state space learns: `value` [channels] or [channels, N], of which a complex mode has
    two neighbours."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.empty(*shape))

    def modes(self, paired: bool) -> Tensor:
        """[channels, M] in float64 or complex128."""
        value = self.value.double()
        return torch.view_as_complex(value.unflatten(-1, (-1, 2)).contiguous()) if paired else value


class StepSize(Vector):
    """Δ of each channel by way of softplus, log-uniform in `STEP_RANGE` at first."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        of_state_space(self.value)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        spread_(self.value, *STEP_RANGE)

    def forward(self) -> Tensor:
        """[channels], float64."""
        return nn.functional.softplus(self.value.double())


class Drive(Vector):
    """B of each channel and mode, 1 at first."""

    def __init__(self, channels: int, size: int, paired: bool) -> None:
        super().__init__(channels, size)
        self.paired = paired
        of_state_space(self.value)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.value.fill_(1.0)
            if self.paired:
                self.value[:, 1::2] = 0.0  # 1 + 0i


class Readout(Vector):
    """C of each channel and mode, normal at first; E|C|² = 1 for a mode."""

    def __init__(self, channels: int, size: int, paired: bool) -> None:
        super().__init__(channels, size)
        self.std = sqrt(0.5) if paired else 1.0
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.value, std=self.std)


class Sampled(NamedTuple):
    """A sampled state space of d channels with M modes: exponent ΔA [d, M], and Ā, B̄, C [d, M], D [d]; C has the
    factor 2 of paired modes. The exponent is float64 or complex128."""

    exponent: Tensor
    transition: Tensor
    drive: Tensor
    readout: Tensor
    present: Tensor

    def powers(self, count: int, stride: int = 1) -> Tensor:
        """Ā^(stride · i) for i < count: [d, M, count]."""
        return powers(self.exponent, count, stride).to(self.transition.dtype)


class StateSpaceKernel(nn.Module):
    """The kernel K of a Toeplitz operator as a fixed state space with all of its parameters; see the module."""

    def __init__(self, space: StateSpace, channels: int, size: int) -> None:
        super().__init__()
        self.modes = Modes(space, channels, size)
        self.step_size = StepSize(channels)
        self.drive = Drive(channels, size, self.modes.paired)
        self.readout = Readout(channels, size, self.modes.paired)
        self.present = undecayed(nn.Parameter(torch.empty(channels)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.present)

    def sampled(self, repeat: int = 1) -> Sampled:
        """Zero-order hold, in float32 or better; each channel `repeat` times."""
        real = torch.promote_types(self.present.dtype, torch.float32)
        dtype = real.to_complex() if self.modes.paired else real
        a, step = self.modes(), self.step_size().unsqueeze(-1)
        exponent = step * a
        drive = torch.expm1(exponent) / a * self.drive.modes(self.modes.paired)
        readout = self.readout.modes(self.modes.paired) * (2 if self.modes.paired else 1)
        parts = [exponent, *(part.to(dtype) for part in (exponent.exp(), drive, readout)), self.present.to(real)]
        return Sampled(*(part if repeat == 1 else part.repeat_interleave(repeat, dim=0) for part in parts))

    def forward(self, length: int) -> Tensor:
        """The kernel for lags 0 … length - 1: [channels, length], in float32 or better."""
        with without_autocast(self.present):
            space = self.sampled()
            kernel = s4d_kernel(space.exponent, space.readout * space.drive, length)
            return torch.cat([kernel[:, :1] + space.present[:, None], kernel[:, 1:]], dim=1)


def absorb(space: Sampled, h: Tensor, u: Tensor) -> Tensor:
    """The state after inputs u [B, ℓ, d]: Ā^ℓ h + Σ_j Ā^(ℓ-1-j) B̄ u_j, h [B, d, M]. The same tables."""
    length = u.shape[1]
    columns = table_size(length)
    rows = -(-length // columns)
    latest_first = nn.functional.pad(u.flip(1).transpose(1, 2), (0, rows * columns - length))
    inputs = latest_first.unflatten(-1, (rows, columns)).to(space.present.dtype)  # B d I J
    right = space.powers(columns).transpose(-1, -2)  # d J M
    if right.is_complex():
        partial = inputs @ torch.cat([right.real, right.imag], dim=-1)
        partial = torch.complex(*partial.chunk(2, dim=-1))
    else:
        partial = inputs @ right
    total = (partial * space.powers(rows, columns).transpose(-1, -2)).sum(-2)  # B d M
    return torch.exp(space.exponent * length).to(h.dtype) * h + space.drive * total


def respond(space: Sampled, h: Tensor, length: int) -> Tensor:
    """What a state h [B, d, M] adds to the next `length` outputs: Re(C Ā^(t+1) h), [B, ℓ, d]."""
    return s4d_kernel(space.exponent, space.readout * space.transition * h, length).transpose(1, 2)


def advance(space: Sampled, h: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """One token: the output [B, d] for input u [B, d], D included, and the next state."""
    u = u.to(space.present.dtype)
    h = space.transition * h + space.drive * u.unsqueeze(-1)
    return real_part_of_product(space.readout, h) + space.present * u, h


def stored(h: Tensor) -> Tensor:
    """A state [B, d, M] as the real numbers [B, d, N] of its slot."""
    return torch.view_as_real(h).flatten(-2) if h.is_complex() else h


def restored(slot: Tensor, paired: bool) -> Tensor:
    """The inverse of `stored`."""
    return torch.view_as_complex(slot.unflatten(-1, (-1, 2)).contiguous()) if paired else slot
