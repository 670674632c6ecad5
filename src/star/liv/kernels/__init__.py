"""The numerical core of the LIVs: pure functions over tensors.

An operator has one file, with its equation, a float64 reference, the portable PyTorch version and, where that pays,
what calls its C++ version in the file beside it. `KERNELS` is the table of those that can be chosen.
"""

from __future__ import annotations

from star.liv.kernels.attention import ATTENTION
from star.liv.kernels.choice import Choice, Implementation, Kernel, choice, forced
from star.liv.kernels.decoding import DECODING
from star.liv.kernels.gated_unit import GATED_UNIT
from star.liv.kernels.liquid_scan import LIQUID_SCAN
from star.liv.kernels.native import give_notice
from star.liv.kernels.rms_norm import RMS_NORM
from star.liv.kernels.selective_scan import SELECTIVE_SCAN

KERNELS: tuple[Kernel, ...] = (ATTENTION, SELECTIVE_SCAN, LIQUID_SCAN, GATED_UNIT, RMS_NORM, DECODING)

__all__ = ["KERNELS", "Choice", "Implementation", "Kernel", "choice", "choices", "fingerprint", "forced"]


def choices() -> list[Choice]:
    """What each operator runs on this machine, and why; compiles what has not been."""
    return [choice(kernel) for kernel in KERNELS]


def fingerprint() -> str:
    """A name for this machine's arithmetic, such as `liquid scan portable, selective scan native-0123456789abcdef`.

    Implementations, compilers and CPUs round differently, so two runs can only be equal to the last bit where their
    fingerprints are. Compiles and gives the notice of missing compilers, so it is best called before workers start.
    """
    found = choices()
    for problem in {one.problem for one in found if one.problem}:
        give_notice(problem)
    return ", ".join(f"{one.operator} {one.version}" for one in sorted(found, key=lambda one: one.operator))
