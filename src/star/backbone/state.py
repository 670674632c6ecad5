"""The decoding state of a whole backbone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from star.errors import StarError
from star.liv import OperatorState, Slot


@dataclass
class State:
    """Everything a backbone keeps of a batch of sequences, allocated once for `max_length` tokens.

    slots[i][branch] describe, livs[i][branch] hold the tensors of LIV i. position: tokens seen so far. valid:
    [batch, max_length] bool, False at left padding; None where no sequence is padded.
    """

    slots: list[list[list[Slot]]]
    livs: list[list[OperatorState]]
    batch_size: int
    max_length: int
    device: torch.device
    position: int = 0
    valid: Tensor | None = None

    @classmethod
    def allocate(
        cls, slots: list[list[list[Slot]]], batch_size: int, max_length: int, dtype: torch.dtype, device: torch.device
    ) -> State:
        """The empty past."""
        livs = [
            [{slot.name: slot.allocate(batch_size, dtype, device) for slot in branch} for branch in liv]
            for liv in slots
        ]
        return cls(slots, livs, batch_size, max_length, device)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that depend on the sequences (a few bytes of positions apart)."""
        return sum(tensor.nbytes for _, _, tensor in self._tensors())

    def fork(self) -> State:
        """An independent copy, for beams."""
        return self._mapped(lambda tensor: tensor.clone(), self.batch_size)

    def reorder(self, index: Tensor) -> State:
        """The state of sequences `index` [n] of this batch; n may differ from the batch size."""
        return self._mapped(lambda tensor: tensor.index_select(0, index), int(index.shape[0]))

    def trim(self, length: int) -> None:
        """Take back all tokens but the first `length`. Raises `StarError` where a LIV keeps no record by position."""
        if not 0 <= length <= self.position:
            raise StarError(f"the state holds {self.position} tokens and cannot be trimmed to {length}.")
        for index, branches in enumerate(self.slots):
            fixed = [slot.name for branch in branches for slot in branch if not slot.positional]
            if fixed and length < self.position:
                raise StarError(
                    f"LIV {index} keeps {', '.join(fixed)} for all tokens together, so none can be taken back; "
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

    def _tensors(self) -> list[tuple[OperatorState, str, Tensor]]:
        return [
            (held, slot.name, held[slot.name])
            for branches, states in zip(self.slots, self.livs, strict=True)
            for slots, held in zip(branches, states, strict=True)
            for slot in slots
        ]

    def _mapped(self, function, batch_size: int) -> State:  # type: ignore[no-untyped-def]
        names = [[{slot.name for slot in slots} for slots in branches] for branches in self.slots]
        livs = [
            [
                {name: function(tensor) if name in own else tensor for name, tensor in held.items()}
                for own, held in zip(owned, states, strict=True)
            ]
            for owned, states in zip(names, self.livs, strict=True)
        ]
        valid = None if self.valid is None else function(self.valid)
        return State(self.slots, livs, batch_size, self.max_length, self.device, self.position, valid)
