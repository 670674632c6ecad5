"""The decoding state of a whole backbone."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from star.errors import StarError
from star.liv import OperatorState, Slot


@dataclass
class Binding:
    """A `program` bound to the tensors at `addresses`, or that it cannot be: `run` is None. Copies are empty."""

    program: Any = None
    addresses: list[int] = field(default_factory=list)
    run: Callable[[State, Tensor], Tensor] | None = None

    def __reduce__(self) -> tuple[type[Binding], tuple[()]]:
        return Binding, ()


@dataclass(frozen=True)
class Slots:
    """livs[i][branch] describe what LIV i keeps, routers[stage] what the router of that stage does."""

    livs: list[list[list[Slot]]]
    routers: dict[str, list[Slot]]

    def units(self) -> Iterator[tuple[str, list[Slot]]]:
        """All of them, each with a name for messages."""
        for index, branches in enumerate(self.livs):
            yield from ((f"LIV {index}", branch) for branch in branches)
        yield from ((f"the router of stage {number}", slots) for number, slots in self.routers.items())


@dataclass
class State:
    """Everything a backbone keeps of a batch of sequences, allocated once for `max_length` tokens.

    `slots` describe, livs[i][branch] and routers[stage] hold the tensors. position: tokens seen so far. valid:
    [batch, max_length] bool, False at left padding; None where no sequence is padded. dtype: of what is not
    accumulated. derived: see `Call`; forks share it, for it depends on the weights alone. binding: what runs a token
    with these very tensors, see `Program`.
    """

    slots: Slots
    livs: list[list[OperatorState]]
    routers: dict[str, OperatorState]
    batch_size: int
    max_length: int
    device: torch.device
    dtype: torch.dtype
    position: int = 0
    valid: Tensor | None = None
    derived: dict[Hashable, Any] = field(default_factory=dict)
    binding: Binding = field(default_factory=Binding, compare=False, repr=False)

    @classmethod
    def allocate(
        cls, slots: Slots, batch_size: int, max_length: int, dtype: torch.dtype, device: torch.device
    ) -> State:
        """The empty past."""

        def empty(held: list[Slot]) -> OperatorState:
            return {slot.name: slot.allocate(batch_size, dtype, device) for slot in held}

        livs = [[empty(branch) for branch in branches] for branches in slots.livs]
        routers = {number: empty(held) for number, held in slots.routers.items()}
        return cls(slots, livs, routers, batch_size, max_length, device, dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that depend on the sequences (a few bytes of positions apart)."""
        return sum(held[slot.name].nbytes for slots, held in self._units() for slot in slots)

    def fork(self) -> State:
        """An independent copy, for beams."""
        return self._mapped(lambda tensor: tensor.clone(), self.batch_size)

    def restore(self, earlier: State) -> None:
        """Write the content of an earlier fork into the tensors of this state, which stay where they are."""
        for (slots, held), (_, kept) in zip(self._units(), earlier._units(), strict=True):
            for slot in slots:
                held[slot.name].copy_(kept[slot.name])
        self.position, self.valid = earlier.position, earlier.valid

    def reorder(self, index: Tensor) -> State:
        """The state of sequences `index` [n] of this batch; n may differ from the batch size."""
        return self._mapped(lambda tensor: tensor.index_select(0, index), int(index.shape[0]))

    def trim(self, length: int) -> None:
        """Take back all tokens but the first `length`. Raises `StarError` where a LIV keeps no record by position."""
        if not 0 <= length <= self.position:
            raise StarError(f"the state holds {self.position} tokens and cannot be trimmed to {length}.")
        for name, slots in self.slots.units():
            fixed = [slot.name for slot in slots if not slot.positional]
            if fixed and length < self.position:
                raise StarError(
                    f"{name} keeps {', '.join(fixed)} for all tokens together, so none can be taken back; "
                    f"fork the state before the tokens that may have to go."
                )
        self.position = length
        if self.valid is not None:
            self.valid = self.valid.clone()
            self.valid[:, length:] = True  # what comes next is not padding unless its own mask says so

    def reserve(self, length: int, mask: Tensor | None) -> Tensor | None:
        """Check that `length` more tokens fit, note their padding, and return the mask [batch, position + length] of
        real tokens (None: all are). Raises `StarError` past `max_length` or at right padding."""
        end = self.position + length
        if end > self.max_length:
            raise StarError(
                f"the state was made for {self.max_length} tokens and holds {self.position}; {length} more do not fit. "
                f"Ask init_state for a larger max_length."
            )
        if mask is not None and not bool(mask.all()):
            # A new tensor: earlier passes may need theirs for gradients, and a refusal leaves the state as it was.
            if self.valid is None:
                valid = torch.ones((self.batch_size, self.max_length), dtype=torch.bool, device=self.device)
            else:
                valid = self.valid.clone()
            valid[:, self.position : end] = mask
            seen = valid[:, :end]
            if bool((seen[:, :-1] & ~seen[:, 1:]).any()):
                raise StarError("a state takes padding on the left only; pad the prompts on the left, tokens last.")
            self.valid = valid
        return None if self.valid is None else self.valid[:, :end]

    def _units(self) -> Iterator[tuple[list[Slot], OperatorState]]:
        held = [*(branch for branches in self.livs for branch in branches), *self.routers.values()]
        return zip((slots for _, slots in self.slots.units()), held, strict=True)

    def _mapped(self, function: Callable[[Tensor], Tensor], batch_size: int) -> State:
        def mapped(slots: list[Slot], held: OperatorState) -> OperatorState:
            own = {slot.name for slot in slots}
            return {name: function(tensor) if name in own else tensor for name, tensor in held.items()}

        livs = [
            [mapped(slots, held) for slots, held in zip(described, branches, strict=True)]
            for described, branches in zip(self.slots.livs, self.livs, strict=True)
        ]
        routers = {number: mapped(self.slots.routers[number], held) for number, held in self.routers.items()}
        valid = None if self.valid is None else function(self.valid)
        return State(
            self.slots,
            livs,
            routers,
            batch_size,
            self.max_length,
            self.device,
            self.dtype,
            self.position,
            valid,
            self.derived,
        )
