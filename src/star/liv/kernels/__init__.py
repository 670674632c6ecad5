"""The numerical core of the LIVs: pure functions over tensors.

An operator has one file, with its equation, a float64 reference, the portable PyTorch version and, where that pays,
what calls its C++ version in the file beside it; the folder `triton` has the versions for GPUs. `KERNELS` is the table
of those that can be chosen.
"""

from __future__ import annotations

import torch

from star.liv.kernels import native
from star.liv.kernels.attention import ATTENTION
from star.liv.kernels.choice import Choice, Implementation, Kernel, choice, forced, forced_implementation
from star.liv.kernels.convolution import GATED_SHORT_CONVOLUTION, SHORT_CONVOLUTION
from star.liv.kernels.cross_entropy import HEAD_CROSS_ENTROPY
from star.liv.kernels.decoding import DECODING
from star.liv.kernels.gated_mlp import GATED_MLP
from star.liv.kernels.gated_unit import GATED_UNIT
from star.liv.kernels.linear_attention import LINEAR_ATTENTION
from star.liv.kernels.liquid_scan import LIQUID_SCAN
from star.liv.kernels.long_convolution import LONG_CONVOLUTION
from star.liv.kernels.multi_head_attention import MULTI_HEAD_ATTENTION
from star.liv.kernels.resample import RESAMPLE
from star.liv.kernels.rms_norm import RMS_NORM
from star.liv.kernels.rotary import ROTARY
from star.liv.kernels.selective_scan import SELECTIVE_SCAN
from star.liv.kernels.state_space import S4D_KERNEL

KERNELS: tuple[Kernel, ...] = (
    ATTENTION,
    MULTI_HEAD_ATTENTION,
    LINEAR_ATTENTION,
    ROTARY,
    SELECTIVE_SCAN,
    LIQUID_SCAN,
    SHORT_CONVOLUTION,
    GATED_SHORT_CONVOLUTION,
    LONG_CONVOLUTION,
    S4D_KERNEL,
    RESAMPLE,
    GATED_UNIT,
    GATED_MLP,
    RMS_NORM,
    HEAD_CROSS_ENTROPY,
    DECODING,
)

__all__ = ["KERNELS", "Choice", "Implementation", "Kernel", "choice", "choices", "fingerprint", "forced"]


def choices(device: str = "cpu") -> list[Choice]:
    """What each operator runs on a device of this machine, and why; compiles for the CPU what has not been."""
    if torch.device(device).type == "cpu" and forced_implementation() in (None, Implementation.NATIVE):
        native.load(dict.fromkeys(kernel.native.source for kernel in KERNELS if kernel.native))
    return [choice(kernel, device) for kernel in KERNELS]


def fingerprint(device: str = "cpu") -> str:
    """A name for the arithmetic of a device, such as `liquid scan portable, selective scan native-0123456789abcdef`.

    Implementations, compilers and CPUs round differently, so two runs can only be equal to the last bit where their
    fingerprints are. Compiles and gives the notice of missing compilers, so it is best called before workers start.
    """
    found = choices(device)
    for one in found:
        if one.problem:
            native.give_notice(one.problem, "triton" if torch.device(device).type == "cuda" else "native")
    return ", ".join(f"{one.operator} {one.version}" for one in sorted(found, key=lambda one: one.operator))
