"""Lists of the operations of `decode.cpp`, in which sizes, tensors of states and buffers are still open."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from star.genome import Nonlinearity
from star.liv.kernels import decoding as native
from star.liv.state import OperatorState


class Past(Protocol):
    """What is asked of the state of a backbone when a program is bound to it."""

    livs: list[list[OperatorState]]
    batch_size: int
    max_length: int
    derived: dict[Any, Any]


@dataclass(eq=False)
class Buffer:
    """`size` numbers of each sequence that one operation leaves to others."""

    size: int


#: What a field of a record is: a number or tensor, known now or for each state; a buffer; nothing.
Value = int | float | Tensor | Buffer | Callable[[Past], int | Tensor] | None
Features = dict[str, Value]


class Entry(NamedTuple):
    """One record, its fields by name but `kind`."""

    operation: type[ctypes.Structure]
    values: dict[str, Value]


def fixed(tensor: Tensor) -> Tensor:
    """A weight, or what is made of weights, without gaps; the very storage where there are none."""
    return tensor.detach().contiguous()


@dataclass
class Listing:
    """Operations in order, and what the states that they can be bound to fulfil."""

    entries: list[Entry] = field(default_factory=list)
    conditions: list[Callable[[Past], bool]] = field(default_factory=list)
    published: dict[tuple[int, int, str], Value] = field(default_factory=dict)
    _free: list[Buffer] = field(default_factory=list)
    _used: list[Buffer] = field(default_factory=list)

    def add(self, operation: type[ctypes.Structure], **values: Value) -> None:
        """Append a record."""
        self.entries.append(Entry(operation, values))

    def buffer(self, size: int) -> Buffer:
        """A buffer that is the caller's until `release`."""
        found = next((free for free in self._free if free.size == size), None) or Buffer(size)
        if found in self._free:
            self._free.remove(found)
        self._used.append(found)
        return found

    def release(self) -> None:
        """All buffers may be used again but those that are published."""
        kept = [value for value in self.published.values() if isinstance(value, Buffer)]
        self._free += [used for used in self._used if used not in kept]
        self._used = []

    def product(self, x: Value, weight: Tensor, y: Buffer | None = None, sign: int = 0) -> Buffer:
        """W x, or what it is added to (sign 1) or subtracted from (sign -1)."""
        outputs, inputs = weight.shape
        y = y or self.buffer(outputs)
        self.add(native.Product, inputs=inputs, outputs=outputs, sign=sign, x=x, weight=fixed(weight), y=y)
        return y

    def gated(self, gate: Value, up: Value, size: int, nonlinearity: Nonlinearity = Nonlinearity.NONE) -> Buffer:
        """σ(gate) ⊙ up."""
        y = self.buffer(size)
        self.add(native.Gate, size=size, nonlinearity=nonlinearity, gate=gate, up=up, y=y)
        return y

    def finished(
        self,
        x: Value,
        size: int,
        taps: Tensor | None = None,
        ring: Value = None,
        bias: Tensor | None = None,
        nonlinearity: Nonlinearity = Nonlinearity.NONE,
        repeat: int = 1,
    ) -> Buffer:
        """σ(taps * x + bias), each channel `repeat` times, for taps [size, n] and the ring that holds earlier x."""
        y = self.buffer(size * repeat)
        self.add(
            native.Finish,
            size=size,
            taps=0 if taps is None else taps.shape[1],
            nonlinearity=nonlinearity,
            repeat=repeat,
            x=x,
            weight=None if taps is None else fixed(taps.t()),
            bias=None if bias is None else fixed(bias),
            ring=None if taps is None else ring,
            y=y,
        )
        return y

    def repeated(self, x: Value, size: int, repeat: int) -> Value:
        """Each channel of x `repeat` times, `size` in the end."""
        return x if repeat == 1 else self.finished(x, size // repeat, repeat=repeat)

    def resampled(
        self, x: Value, shift: Value, bias: Tensor | None, size: int, window: int, ring: Callable[[Past], Tensor]
    ) -> Buffer:
        """x read back by the bounded shift of `shift` + `bias`."""
        y = self.buffer(size)
        self.add(
            native.Resample,
            size=size,
            window=window,
            length=lambda past: ring(past).shape[1],
            x=x,
            shift=shift,
            bias=None if bias is None else fixed(bias),
            ring=ring,
            y=y,
        )
        return y
