"""Which library multiplies float32 matrices on the CPU: PyTorch's default one (MKL, as a rule) or oneDNN.

PyTorch sends float32 products to oneDNN only where bf16 is permitted inside them. oneDNN makes use of that permission
on CPUs that multiply bf16 faster, such as those with AMX tiles; on others its products are as exact as the default
ones, and faster where MKL does not know the CPU. Which is the case no table of CPUs tells: `probe` multiplies and
looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

#: PyTorch's setting for the whole process; None: this PyTorch does not have it.
SETTING: Any = getattr(torch.backends.mkldnn, "matmul", None) if torch.backends.mkldnn.is_available() else None
PERMITTED, FORBIDDEN, INHERITED = "bf16", "ieee", "none"  # what it can say of bf16 inside of float32 products

LIKE_DEFAULT = 4.0  # times the error of the default products; in bf16 it is thousands of times as large
SHAPES = (
    ((), 33, 65, 47),
    ((), 129, 257, 191),
    ((), 512, 64, 192),
    ((5,), 65, 33, 47),
    ((3,), 128, 96, 64),
)  # batch m k n
Multiply = Callable[[Tensor, Tensor], Tensor]


def goes_to_onednn() -> bool:
    """Whether float32 products of the CPU go to oneDNN now."""
    return SETTING is not None and SETTING.fp32_precision == PERMITTED


@contextmanager
def by_onednn(wanted: bool) -> Iterator[None]:
    """Within this block oneDNN multiplies float32 matrices, or, not `wanted`, the default library; in all threads.

    Of two threads, one at a time may be in such a block: the setting belongs to the process. PyTorch refuses
    `torch.get_float32_matmul_precision` within it.
    """
    if SETTING is None:
        yield
        return
    before = SETTING.fp32_precision
    SETTING.fp32_precision = PERMITTED if wanted else FORBIDDEN
    try:
        yield
    finally:
        # What was read may have been inherited from the settings above this one, and is to stay so.
        SETTING.fp32_precision = INHERITED
        if SETTING.fp32_precision != before:
            SETTING.fp32_precision = before


@dataclass(frozen=True)
class Probe:
    """The largest errors of a few products, each relative to the sum of its terms' magnitudes."""

    default: float
    onednn: float | None  # None: PyTorch cannot be told to use it

    @property
    def is_float32(self) -> bool:
        """Whether oneDNN may multiply in place of the default library."""
        return self.onednn is not None and self.onednn <= LIKE_DEFAULT * self.default

    def __str__(self) -> str:
        if self.onednn is None:
            return "this PyTorch cannot send products to oneDNN"
        way = "multiplies in float32" if self.is_float32 else "does not multiply in float32"
        return f"oneDNN {way} on this CPU (error {self.onednn:.1e}, by default {self.default:.1e})"


@cache
def probe() -> Probe:
    """What oneDNN's products are on this CPU; takes milliseconds, once in a process."""
    return probed()


def probed(multiply: Multiply = torch.matmul) -> Probe:
    """The same without memory, of any way to multiply."""
    with by_onednn(False):
        default = _largest_error(multiply)
    if SETTING is None:
        return Probe(default, None)
    with by_onednn(True):
        return Probe(default, _largest_error(multiply))


def _largest_error(multiply: Multiply) -> float:
    """Over odd and even shapes, batched and not, each factor as it is and transposed; values from 1e-4 to 1e4."""
    random, errors = torch.Generator("cpu").manual_seed(0), []
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        for batch, m, k, n in SHAPES:
            for first, second in ((False, False), (False, True), (True, False), (True, True)):
                a, b = _factor(batch, m, k, first, random), _factor(batch, k, n, second, random)
                y, exact = multiply(a, b).double(), a.double() @ b.double()
                errors.append(((y - exact).abs() / (a.double().abs() @ b.double().abs())).max())
        return float(torch.stack(errors).max())


def _factor(batch: tuple[int, ...], rows: int, columns: int, transposed: bool, random: torch.Generator) -> Tensor:
    """[*batch, rows, columns], stored by columns if `transposed`."""
    shape = (*batch, columns, rows) if transposed else (*batch, rows, columns)
    normal, scale = (torch.randn(shape, generator=random, dtype=torch.float32, device="cpu") for _ in range(2))
    values = normal * (2 * scale).exp()
    return values.transpose(-1, -2) if transposed else values
