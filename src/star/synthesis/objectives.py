"""What a search can minimise: one table. Imports no torch until a static objective is computed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from star.errors import StarError
from star.genome import BackboneGenome, OptionPool

if TYPE_CHECKING:
    from star.lm.cost import Cost


@dataclass(frozen=True)
class Architecture:
    """What is known of a candidate before it is trained."""

    genome: BackboneGenome
    pool: OptionPool
    width: int
    length: int
    """Of the training sequences."""

    def parameters(self) -> int:
        """Trainable parameters without embeddings."""
        return _cost(self.genome, self.pool, self.width, self.length).parameters

    def liv_parameters(self) -> tuple[int, ...]:
        """Of each LIV, those that no earlier one owns."""
        return tuple(row.parameters for row in _cost(self.genome, self.pool, self.width, self.length).rows)

    def cache_bytes(self, length: int) -> int:
        """Bytes of decode state after ``length`` tokens in 16-bit precision, one sequence."""
        return _cost(self.genome, self.pool, self.width, length).cache_bytes

    def flops(self, length: int) -> int:
        """Floating-point operations of one forward pass over ``length`` tokens; see ``star.lm.flops``."""
        return _flops(self.genome, self.pool, self.width, length)


@lru_cache(maxsize=4096)
def _cost(genome: BackboneGenome, pool: OptionPool, width: int, length: int) -> Cost:
    from star.lm.cost import analyse

    return analyse(genome, pool, width=width, length=length)


@lru_cache(maxsize=4096)
def _flops(genome: BackboneGenome, pool: OptionPool, width: int, length: int) -> int:
    from star.lm.flops import forward_flops

    return forward_flops(genome, pool, width=width, length=length)


@dataclass(frozen=True)
class Objective:
    """One number to minimise. ``name`` is its canonical text, ``length`` the L of ``name@L``."""

    name: str
    kind: Kind
    length: int | None = None

    @property
    def needs_training(self) -> bool:
        """False for static objectives, which the architecture alone decides."""
        return self.kind.static is None

    @property
    def measured(self) -> bool:
        """Whether a worker measures it on the trained model, beside the perplexity."""
        return self.kind.measured

    @property
    def timed(self) -> bool:
        """Whether it is a wall time, which no training changes."""
        return self.kind.format is format_seconds

    @property
    def title(self) -> str:
        """For table heads and axes."""
        return self.kind.title if self.length is None else f"{self.kind.title} at {self.length:,} tokens"

    def before_training(self, architecture: Architecture) -> float | None:
        """The value of a static objective; None for one that needs training."""
        return None if self.kind.static is None else float(self.kind.static(architecture, self.length))

    def after_training(self, metrics: Mapping[str, float]) -> float:
        """The value of a trained objective among what the trial measured."""
        return float(metrics[self.name if self.measured else self.kind.name])

    def format(self, value: float) -> str:
        """The value as people read it, with its unit."""
        return self.kind.format(value)


@dataclass(frozen=True)
class Kind:
    """A row of the table of objectives. ``static`` computes it from an architecture and L; without it, a trial does.

    ``measured``: the worker finds it out on the trained model; see ``star.synthesis.measures``.
    """

    name: str
    title: str
    description: str
    format: Callable[[float], str]
    static: Callable[[Architecture, int | None], float] | None = None
    takes_length: bool = False
    measured: bool = False

    @property
    def usage(self) -> str:
        """How it is written in a recipe."""
        return f"{self.name}@L" if self.takes_length else self.name


def format_count(value: float) -> str:
    """1234567 as ``1.23M``: three significant digits."""
    return _scaled(value, 1000, ("", "K", "M", "B", "T"))


def format_bytes(value: float) -> str:
    """150994944 as ``151 MB``: decimal units, three significant digits."""
    return _scaled(value, 1000, (" B", " KB", " MB", " GB", " TB"))


def format_flops(value: float) -> str:
    """1234567 as ``1.23 MFLOP``."""
    return _scaled(value, 1000, (" FLOP", " kFLOP", " MFLOP", " GFLOP", " TFLOP", " PFLOP"))


def format_seconds(value: float) -> str:
    """0.00123 as ``1.23 ms``."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    step = 0
    while abs(value) >= base - 0.5 and step < len(units) - 1:
        value /= base
        step += 1
    digits = 0 if step == 0 or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f}{units[step]}"


OBJECTIVES: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("perplexity", "Perplexity", "of held-out tokens after training", lambda value: f"{value:.3f}"),
        Kind(
            "parameters",
            "Parameters",
            "trainable, without embeddings",
            format_count,
            static=lambda architecture, _: architecture.parameters(),
        ),
        Kind(
            "cache_bytes",
            "Cache",
            "bytes of decode state after L tokens, 2 bytes an element",
            format_bytes,
            static=lambda architecture, length: architecture.cache_bytes(length or 1),
            takes_length=True,
        ),
        Kind(
            "flops",
            "Operations",
            "floating-point operations of a forward pass over L tokens",
            format_flops,
            static=lambda architecture, length: architecture.flops(length or 1),
            takes_length=True,
        ),
        Kind(
            "prefill_time",
            "Prefill time",
            "seconds in which a prompt of L tokens is read, measured on the worker's device",
            format_seconds,
            takes_length=True,
            measured=True,
        ),
        Kind(
            "decode_time",
            "Decode time",
            "seconds of one token after L tokens, measured on the worker's device",
            format_seconds,
            takes_length=True,
            measured=True,
        ),
        Kind(
            "mad",
            "MAD error",
            "share of wrong answers in the six MAD tasks, each learned by a fresh model",
            lambda value: f"{value:.1%}",
            measured=True,
        ),
    )
}


PYTHON = "python"
FUNCTION = re.compile(r"(?:[^\W\d]\w*\.)+[^\W\d]\w*")


def usages() -> str:
    """All forms that an objective can have, for messages."""
    return ", ".join([*(kind.usage for kind in OBJECTIVES.values()), f"{PYTHON}:MODULE.FUNCTION"])


def parse_objective(text: str) -> Objective:
    """The objective that ``text`` names, such as ``perplexity``, ``cache_bytes@4096`` or ``python:module.function``;
    StarError if it names none. The function is not imported here."""
    text = text.strip()
    if text.startswith(f"{PYTHON}:"):
        return _own_objective(text)
    name, at, length_text = text.partition("@")
    kind = OBJECTIVES.get(name)
    if kind is None:
        raise StarError(f"{text!r} is no objective; choose from {usages()}")
    if not kind.takes_length:
        if at:
            raise StarError(f"the objective {name} takes no length, but {text!r} gives one; write {name}")
        return Objective(name, kind)
    length = int(length_text) if length_text.isascii() and length_text.isdigit() else 0
    if not 1 <= length <= 1 << 40:
        raise StarError(f"{text!r} gives no length; write {name}@L with L tokens, such as {name}@4096")
    return Objective(f"{name}@{length}", kind, length)


def _own_objective(text: str) -> Objective:
    function = text.removeprefix(f"{PYTHON}:")
    if not FUNCTION.fullmatch(function):
        raise StarError(f"{text!r} names no function; write {PYTHON}:MODULE.FUNCTION, such as {PYTHON}:metrics.score")
    title = function.rpartition(".")[2].replace("_", " ")
    return Objective(text, Kind(PYTHON, title, f"what {function} returns", "{:.4g}".format, measured=True))


@dataclass(frozen=True)
class Constraint:
    """A bound that a candidate must keep: ``parameters<=80e6``, ``perplexity<=20``, ``flops@4096>=1e9``."""

    objective: Objective
    upper: bool
    bound: float

    @property
    def text(self) -> str:
        """Its canonical form."""
        bound = f"{int(self.bound)}" if self.bound.is_integer() and abs(self.bound) < 1e15 else repr(self.bound)
        return f"{self.objective.name}{'<=' if self.upper else '>='}{bound}"

    def holds(self, value: float) -> bool:
        """Whether a value of the objective keeps it."""
        return value <= self.bound if self.upper else value >= self.bound


def parse_constraint(text: str) -> Constraint:
    """The inverse of ``Constraint.text``, for any objective; StarError where it is none."""
    for sign, upper in (("<=", True), (">=", False)):
        name, found, bound_text = text.partition(sign)
        if found:
            try:
                bound = float(bound_text)
            except ValueError:
                bound = math.nan
            if not math.isfinite(bound):
                raise StarError(f"{bound_text.strip()!r} in the constraint {text!r} is no number; write it as 80e6")
            return Constraint(parse_objective(name), upper, bound)
    raise StarError(f"{text!r} is no constraint; write OBJECTIVE<=NUMBER or >=NUMBER, such as parameters<=80e6")
