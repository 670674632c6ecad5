"""Which implementation of an operator runs: the fastest that its inputs and this machine allow, or a forced one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from star.errors import StarError
from star.liv.kernels import native

VARIABLE = "STAR_KERNELS"


class Implementation(StrEnum):
    """The ways to compute one operator, all with the same arguments."""

    REFERENCE = "reference"  # the equation as it is written, in float64; slow, for tests
    PORTABLE = "portable"  # PyTorch, on every device
    NATIVE = "native"  # C++ for this CPU, compiled at first use


@dataclass(frozen=True)
class Native:
    """The C++ version of an operator, in `source` beside the Python files."""

    source: str
    function: Callable[..., Any]
    serves: Callable[..., bool]  # whether it is made for these inputs


@dataclass(frozen=True)
class Kernel:
    """One operator in all its implementations. Called like a function, it runs the one chosen for its inputs."""

    name: str
    reference: Callable[..., Any]
    portable: Callable[..., Any]
    native: Native | None = None

    def __call__(self, *inputs: Any) -> Any:
        return self.function(self.chosen(*inputs))(*inputs)

    def chosen(self, *inputs: Any) -> Implementation:
        """What runs for `inputs`. A forced native version still leaves inputs that it is not made for to the portable
        one.

        Raises:
            StarError: the native version is forced, but cannot be compiled here.
        """
        wanted = forced_implementation()
        if wanted in (Implementation.REFERENCE, Implementation.PORTABLE):
            return wanted
        if self.native is None or not self.native.serves(*inputs):
            return Implementation.PORTABLE
        library = native.library(self.native.source)
        if library.problem is None:
            return Implementation.NATIVE
        if wanted is Implementation.NATIVE:
            raise StarError(f"the native kernels are forced, but cannot be used: {library.problem}")
        native.give_notice(library.problem)
        return Implementation.PORTABLE

    def function(self, implementation: Implementation) -> Callable[..., Any]:
        """One implementation, chosen by hand."""
        match implementation:
            case Implementation.REFERENCE:
                return self.reference
            case Implementation.NATIVE if self.native is not None:
                return self.native.function
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
    """What runs for the usual inputs of an operator (float32 on the CPU), and why; `version` names its arithmetic.

    `problem`: why a native version that exists cannot be used.
    """

    operator: str
    implementation: Implementation
    reason: str
    version: str
    problem: str | None = None


def choice(kernel: Kernel) -> Choice:
    """The implementation that `kernel` would run, compiled where that is still to be done."""
    wanted, portable = forced_implementation(), Implementation.PORTABLE
    if wanted in (Implementation.REFERENCE, Implementation.PORTABLE):
        return Choice(kernel.name, wanted, "forced", wanted)
    if kernel.native is None:
        return Choice(kernel.name, portable, "has no other implementation", portable)
    library = native.library(kernel.native.source)
    if library.problem is None:
        return Choice(kernel.name, Implementation.NATIVE, "compiled for this CPU", f"native-{library.key}")
    return Choice(kernel.name, portable, library.problem, portable, library.problem)
