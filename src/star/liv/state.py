"""Decoding states: what a LIV keeps of the past, allocated once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

T = TypeVar("T")

#: A position: a number, or on the device, [1] int64.
Place = int | Tensor

#: The state of one operator: slot name → tensor [batch, *slot.shape].
OperatorState = dict[str, Tensor]


@dataclass(frozen=True)
class Slot:
    """One tensor of a state, its shape for one sequence.

    accumulated: a recurrent state, kept in float32 or better whatever the model's dtype is. positional: entry t belongs
    to token t, so that the last tokens can be taken back.
    """

    name: str
    shape: tuple[int, ...]
    accumulated: bool = False
    positional: bool = False

    @property
    def elements(self) -> int:
        """Number of elements for one sequence."""
        return prod(self.shape)

    def allocate(self, batch_size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Zeros: the empty past."""
        if self.accumulated:
            dtype = torch.promote_types(dtype, torch.float32)
        return torch.zeros((batch_size, *self.shape), dtype=dtype, device=device)


@dataclass
class Call:
    """What one forward pass of a backbone carries beside x.

    position: tokens that the states have already seen. valid: [B, position + ℓ] bool, False at left padding, or None.
    published: feature groups that later LIVs take, by (LIV, branch, name). derived: what mixers compute from weights
    alone and use for many tokens; it belongs to the state, so that other weights, with another state, begin anew.
    clock: [1] int64, the position where the same operations are to serve for every token, as in a CUDA graph; then
    `position` means nothing, and of keys and values that are kept by position the first `keys` are looked at.
    """

    position: int = 0
    valid: Tensor | None = None
    published: dict[tuple[int, int, str], Tensor] = field(default_factory=dict)
    derived: dict[Hashable, Any] = field(default_factory=dict)
    clock: Tensor | None = None
    keys: int = 0

    @property
    def place(self) -> Place:
        """The position, on the device where the operations shall not depend on it."""
        return self.position if self.clock is None else self.clock

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of `make()`, called only where this state has none under `key`."""
        if key not in self.derived:
            self.derived[key] = make()
        found: T = self.derived[key]
        return found

    def real(self, keys: int, length: int, device: torch.device) -> Tensor:
        """[1 or B, keys]: whether each of the last `keys` positions up to this chunk's end is a real token: neither
        padding nor before the start."""
        end = self.position + length
        before = max(0, keys - end)
        if self.valid is None:
            return (torch.arange(keys, device=device) >= before).unsqueeze(0)
        return functional.pad(self.valid[:, max(0, end - keys) :], (before, 0))

    def within_block(self, window: int, last: int, length: int, device: torch.device) -> Tensor:
        """[1 or B, last]: for the last positions up to this chunk's end, how far into its block of `window` tokens each
        stands; blocks count from the first real token of each sequence."""
        end = self.position + length
        positions = torch.arange(end - last, end, device=device).unsqueeze(0)
        if self.valid is not None:
            positions = positions - self.valid.int().argmax(1, keepdim=True)
        return positions % window

    def counts(self, length: int, device: torch.device) -> Tensor:
        """[1 or B, ℓ]: how many real tokens each position sees, at least 1."""
        if self.valid is None:
            return torch.arange(self.position + 1, self.position + length + 1, device=device).unsqueeze(0)
        return self.valid.cumsum(1)[:, self.position :].clamp(min=1)


def append(state: OperatorState, name: str, position: int, value: Tensor, dim: int = 1) -> Tensor:
    """Write value, ℓ entries along `dim`, behind the first `position` entries of a slot; returns all entries so far."""
    buffer, length = state[name], value.shape[dim]
    end = position + length
    if torch.is_grad_enabled() and (value.requires_grad or buffer.requires_grad):
        after = buffer.narrow(dim, end, buffer.shape[dim] - end)
        state[name] = torch.cat([buffer.narrow(dim, 0, position), value.to(buffer.dtype), after], dim=dim)
    else:
        buffer.narrow(dim, position, length).copy_(value)
    return state[name].narrow(dim, 0, end)


def replace(state: OperatorState, name: str, value: Tensor) -> None:
    """Overwrite a whole slot."""
    buffer = state[name]
    if torch.is_grad_enabled() and (value.requires_grad or buffer.requires_grad):
        state[name] = value.to(buffer.dtype)
    else:
        buffer.copy_(value)


def slide(state: OperatorState, name: str, position: int, value: Tensor) -> Tensor:
    """The last entries before value [B, ℓ, …], whose first token stands at `position`, as many as the slot [B, n, …]
    holds, oldest first; then let the slot hold those that end with value.

    The slot is a ring, the entry of token t at t mod n, so that a single token overwrites one entry.
    """
    ring = state[name]
    count = ring.shape[1]
    before = ring.roll(-(position % count), 1)
    latest = torch.cat([before, value.to(ring.dtype)], dim=1)[:, -count:]
    replace(state, name, latest.roll((position + value.shape[1]) % count, 1))
    return before


def note(ring: Tensor, place: Place, value: Tensor) -> None:
    """Overwrite the entry of the token at `place` in a ring [B, n, …] with value [B, …]."""
    count = ring.shape[1]
    if isinstance(place, int):
        ring.select(1, place % count).copy_(value)
    else:
        ring.index_copy_(1, place % count, value.unsqueeze(1).to(ring.dtype))


def oldest_first(ring: Tensor, place: Place) -> Iterator[Tensor]:
    """The entries [B, …] of the last n tokens before `place`."""
    count = ring.shape[1]
    if isinstance(place, int):
        return (ring.select(1, (place + index) % count) for index in range(count))
    return iter(ring.index_select(1, (place + torch.arange(count, device=ring.device)) % count).unbind(1))
