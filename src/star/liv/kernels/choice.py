"""Which implementation of an operator runs: the fastest that its inputs and this machine allow, or a forced one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from star.errors import StarError
from star.liv.kernels import native, triton

VARIABLE = "STAR_KERNELS"


class Implementation(StrEnum):
    """The ways to compute one operator, all with the same arguments."""

    REFERENCE = "reference"  # the equation as it is written, in float64; slow, for tests
    PORTABLE = "portable"  # PyTorch, on every device
    NATIVE = "native"  # C++ for this CPU, compiled at first use
    TRITON = "triton"  # for GPUs, compiled at first use


@dataclass(frozen=True)
class Native:
    """The C++ version of an operator, in `source` beside the Python files."""

    source: str
    function: Callable[..., Any]
    serves: Callable[..., bool]  # whether it is made for these inputs


@dataclass(frozen=True)
class Triton:
    """The Triton version of an operator: `function` of the file `module` in the folder `triton`."""

    module: str
    function: str
    serves: Callable[..., bool]  # whether it is made for these inputs

    def run(self, *inputs: Any) -> Any:
        """Imports Triton at the first call."""
        return triton.function(self.module, self.function)(*inputs)


@dataclass(frozen=True)
class Kernel:
    """One operator in all its implementations. Called like a function, it runs the one chosen for its inputs."""

    name: str
    reference: Callable[..., Any]
    portable: Callable[..., Any]
    native: Native | None = None
    triton: Triton | None = None

    def __call__(self, *inputs: Any) -> Any:
        return self.function(self.chosen(*inputs))(*inputs)

    def chosen(self, *inputs: Any) -> Implementation:
        """What runs for `inputs`: Triton on GPUs, C++ on CPUs, the portable version where these are missing or not made
        for the inputs, also if they are forced.

        Raises:
            StarError: what is forced is made for these inputs, but cannot be used here.
        """
        wanted = forced_implementation()
        if wanted in (Implementation.REFERENCE, Implementation.PORTABLE):
            return wanted
        device = next((one.device for one in inputs if isinstance(one, Tensor)), torch.device("cpu"))
        fast = wanted or (Implementation.TRITON if device.type == "cuda" else Implementation.NATIVE)
        own = self.triton if fast is Implementation.TRITON else self.native
        if own is None or not own.serves(*inputs):
            return Implementation.PORTABLE
        problem = triton.problem(device) if isinstance(own, Triton) else native.library(own.source).problem
        if problem is None:
            return fast
        if wanted is fast:
            raise StarError(f"the {fast} kernels are forced, but cannot be used: {problem}")
        native.give_notice(problem, fast)
        return Implementation.PORTABLE

    def function(self, implementation: Implementation) -> Callable[..., Any]:
        """One implementation, chosen by hand."""
        match implementation:
            case Implementation.REFERENCE:
                return self.reference
            case Implementation.NATIVE if self.native is not None:
                return self.native.function
            case Implementation.TRITON if self.triton is not None:
                return self.triton.run
            case _:
                return self.portable


_forced: ContextVar[Implementation | None] = ContextVar("forced", default=None)


@contextmanager
def forced(implementation: Implementation | str) -> Iterator[None]:
    """Within this block every operator runs in one implementation, whatever the environment says; for tests."""
    token = _forced.set(Implementation(implementation))
    try:
        yield
    finally:
        _forced.reset(token)


def forced_implementation() -> Implementation | None:
    """What `forced` or the environment variable STAR_KERNELS asks for; None: choose the fastest.

    Raises:
        StarError: the variable names no implementation.
    """
    if (own := _forced.get()) is not None:
        return own
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    try:
        return Implementation(name)
    except ValueError:
        allowed = ", ".join(Implementation)
        raise StarError(f"{VARIABLE} is {name!r}; it may be one of {allowed}, or not set") from None


@dataclass(frozen=True)
class Choice:
    """What runs for the usual inputs of an operator (float32) on a device, and why; `version` names its arithmetic.

    `problem`: why a faster version that exists cannot be used.
    """

    operator: str
    implementation: Implementation
    reason: str
    version: str
    problem: str | None = None


def choice(kernel: Kernel, device: str = "cpu") -> Choice:
    """The implementation that `kernel` would run on a device, compiled for the CPU where that is still to be done."""
    wanted, portable = forced_implementation(), Implementation.PORTABLE
    if wanted in (Implementation.REFERENCE, Implementation.PORTABLE):
        return Choice(kernel.name, wanted, "forced", wanted)
    place = torch.device(device)
    fast = wanted or (Implementation.TRITON if place.type == "cuda" else Implementation.NATIVE)
    own = kernel.triton if fast is Implementation.TRITON else kernel.native
    if own is None or (fast is Implementation.NATIVE and place.type != "cpu"):
        others = kernel.native is not None or kernel.triton is not None
        reason = f"has no {fast} version" if others else "has no other implementation"
        return Choice(kernel.name, portable, reason, portable)
    if isinstance(own, Triton):
        problem, reason, version = triton.problem(place), "compiled for this GPU", f"triton-{triton.version()}"
        if place.type == "cpu":
            reason = "in Triton's interpreter"
    else:
        library = native.library(own.source)
        problem, reason, version = library.problem, "compiled for this CPU", f"native-{library.key}"
    if problem is None:
        return Choice(kernel.name, fast, reason, version)
    return Choice(kernel.name, portable, problem, portable, problem)
