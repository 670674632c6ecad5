"""Decoding a token at a time in one call of C++: a backbone, and the norm and the head that may come after it, as a
list of operations, bound to the tensors of a state.

`compiled` writes the list once for the weights; `Program.bound` turns it into records with addresses once for each
state, and again when a tensor of the state has been replaced (by a pass that records gradients). Float32 on the CPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from star.backbone.state import Binding, Slots, State
from star.liv.kernels import decoding as native
from star.liv.kernels.native import library, readable
from star.liv.listing import Buffer, Entry, Listing, Value, fixed
from star.liv.program import serves, write

if TYPE_CHECKING:
    from star.backbone.backbone import Backbone

ALONE = 1 << 26  # bytes of weights that one thread reads sooner than several are called for every operation
ROUND = 16  # scores of a head are whole registers on every CPU


def native_operations(backbone: Backbone) -> bool:
    """Whether every part of a backbone has native operations: float32 on the CPU, paths without weights, and LIVs that
    `serves`."""
    return (
        all(readable(weight) for weight in backbone.parameters())
        and not backbone.routers
        and all(isinstance(norm, (nn.RMSNorm, nn.Identity)) for norm in backbone.norms)
        and all(serves(liv) for liv in backbone.livs)  # type: ignore[arg-type]
    )


def compiled(backbone: Backbone, *after: nn.RMSNorm | nn.Linear) -> Program | None:
    """The program of a backbone and of what comes after it, an RMSNorm and a linear map or nothing, for their present
    weights; None where it has none."""
    weights = [weight for module in (backbone, *after) for weight in module.parameters()]
    if not native_operations(backbone) or not all(map(readable, weights)):
        return None
    # Their weights are read where they are, so that there must be no need of a copy, and they have to fit.
    if any(not end.weight.is_contiguous() or end.weight.shape[-1] != backbone.width for end in after):
        return None
    listing, width = Listing(), backbone.width
    stream, normed, kept = Buffer(width), Buffer(width), dict[int, Buffer]()
    listing.add(native.Copy, size=width, x=None, y=stream)
    for number, stage in enumerate(backbone.stages):
        if stage.source is not None:
            listing.add(native.Add, size=width, x=kept[stage.source], y=stream)
        norm = backbone.norms[number]
        if isinstance(norm, nn.RMSNorm):
            _add_norm(listing, norm, stream, normed)
        for index in stage.livs:
            write(backbone.livs[index], normed, stream, listing)  # type: ignore[arg-type]
        if number in backbone.sources:
            kept[number] = Buffer(width)
            listing.add(native.Copy, size=width, x=stream, y=kept[number])
    outputs = width
    for module in after:
        if isinstance(module, nn.Linear):
            outputs, matrix = module.weight.shape[0], fixed(module.weight)
            listing.add(native.Product, inputs=width, outputs=outputs, sign=0, x=normed, weight=matrix, y=None)
        else:
            _add_norm(listing, module, stream, normed)
    if not after:
        listing.add(native.Copy, size=width, x=stream, y=None)
    nbytes = sum(weight.nbytes for weight in backbone.parameters())
    tensors = tuple(value for entry in listing.entries for value in entry.values.values() if isinstance(value, Tensor))
    return Program(tuple(listing.entries), tuple(listing.conditions), backbone.slots, tensors, outputs, nbytes)


def _add_norm(listing: Listing, norm: nn.RMSNorm, x: Buffer, y: Buffer) -> None:
    listing.add(native.Norm, size=x.size, x=x, weight=fixed(norm.weight), y=y, epsilon=norm.eps or 0.0)


@dataclass(frozen=True, eq=False)
class Program:
    """The operations of a token; the first reads x, the last writes what becomes of it."""

    entries: tuple[Entry, ...]
    conditions: tuple[Callable[[State], bool], ...]
    slots: Callable[[int], Slots]  # that a state of so many tokens must have
    fixed: tuple[Tensor, ...]  # weights, and what is made of them
    outputs: int  # numbers of each sequence
    nbytes: int  # of the weights of the backbone

    def bound(self, state: State) -> Callable[[Tensor], Tensor] | None:
        """What advances a state by a token, x [B, d] → [B, outputs]; None where the state is not one for native
        operations: its batch is too large, it holds padding, other numbers than float32, or tensors that gradients flow
        through."""
        if state.valid is not None or state.batch_size > native.MOST:
            return None
        if torch.get_num_threads() > 1 and self.nbytes > ALONE:
            return None
        binding = state.binding
        # Of weights too: sharing them with another process moves them.
        addresses = [tensor.data_ptr() for tensor in (*_tensors(state), *self.fixed)]
        if binding.program is not self or binding.addresses != addresses:
            fits = all(
                readable(tensor) and tensor.is_contiguous() and not tensor.requires_grad for tensor in _tensors(state)
            ) and all(condition(state) for condition in self.conditions)
            fits = fits and _shapes(state.slots) == _shapes(self.slots(state.max_length))
            with torch.no_grad():
                run = _Bound(self, state).run if fits else None
            state.binding = Binding(self, addresses, run)
        return None if state.binding.run is None else partial(state.binding.run, state)


def _shapes(slots: Slots) -> list[list[tuple[str, tuple[int, ...]]]]:
    """What is kept for a sequence: a state that was made for another backbone does not fit these operations."""
    return [[(slot.name, slot.shape) for slot in held] for _, held in slots.units()]


def _tensors(state: State) -> list[Tensor]:
    return [tensor for branches in state.livs for held in branches for tensor in held.values()]


class _Bound:
    """Records with addresses, and the tensors that these belong to; not the state, which would then outlive its use."""

    def __init__(self, program: Program, state: State) -> None:
        self._tensors = _tensors(state)
        # Autograd must know that these change, or it would use them for gradients of earlier passes.
        self._noticed = [tensor for tensor in self._tensors if not tensor.is_inference()]
        self._buffers: dict[Buffer, Tensor] = {}
        self._records = [self._record(entry, state) for entry in program.entries]
        self._first, self._last, self._outputs = self._records[0], self._records[-1], program.outputs
        addresses = [ctypes.addressof(record) for record in self._records]
        self._addresses = (ctypes.c_void_p * len(addresses))(*addresses)
        inputs = max((record.inputs for record in self._records if isinstance(record, native.Product)), default=0)
        heads = max((record.heads for record in self._records if isinstance(record, native.Attend)), default=0)
        room = -(-state.max_length // ROUND) * ROUND
        turned, scores = torch.empty(inputs * native.MOST), torch.empty(heads * room)
        self._tensors += [turned, scores]
        self._program = native.Program(
            state.batch_size,
            0,
            len(addresses),
            room,
            ctypes.addressof(self._addresses),
            turned.data_ptr(),
            scores.data_ptr(),
        )
        self._library = library(native.SOURCE)

    def _record(self, entry: Entry, state: State) -> ctypes.Structure:
        values = {name: self._value(value, state) for name, value in entry.values.items()}
        return entry.operation(native.KINDS[entry.operation], **values)

    def _value(self, value: Value, state: State) -> int | float | None:
        if callable(value):
            value = value(state)
        if isinstance(value, Buffer):
            if value not in self._buffers:
                self._buffers[value] = torch.empty(state.batch_size * value.size)
            value = self._buffers[value]
        if isinstance(value, Tensor):
            self._tensors.append(value)
            return value.data_ptr()
        return value

    def run(self, state: State, x: Tensor) -> Tensor:
        state.reserve(1, None)
        x, y = x.contiguous(), x.new_empty((x.shape[0], self._outputs))
        self._first.x, self._last.y = x.data_ptr(), y.data_ptr()
        self._program.position = state.position
        self._library.call("decode", self._program)
        torch.autograd.graph.increment_version(self._noticed)
        state.position += 1
        return y
