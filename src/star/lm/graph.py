"""Decoding with CUDA graphs: the kernels of one token are recorded and replayed, which costs one launch instead of
hundreds. A token and its position are written to fixed places before each replay; states are advanced where they lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from star.backbone.decode import make_step
from star.backbone.replay import bucket, obstacle
from star.backbone.state import State
from star.errors import StarError
from star.liv import Call

if TYPE_CHECKING:
    from star.lm.model import LanguageModel

WARM_UP = 2  # runs before a recording, in which libraries allocate and choose what they need


def require_graph(model: LanguageModel, mask: Tensor | None) -> None:
    """Raises `StarError` where decoding this model, after a prompt with this padding, cannot be recorded."""
    why = obstacle(model.backbone)
    if why is not None:
        raise StarError(f"this model cannot be decoded with a CUDA graph: {why}. Leave cuda_graph out.")
    if mask is not None and not bool(mask.all()):
        raise StarError("a CUDA graph takes no padded prompts; give prompts of one length, or leave cuda_graph out.")
    if model.device.type != "cuda":
        raise StarError(f"cuda_graph needs a model on a CUDA device, and this one is on {model.device}.")


class StaticStep:
    """One token of each sequence, from fixed places to logits, by operations that are the same for every token that has
    a place among the first `keys`. Holds a second copy of the dense weights, as they were when it was made."""

    def __init__(self, model: LanguageModel, state: State) -> None:
        self.model, self.state = model, state
        self.tokens = torch.zeros(state.batch_size, dtype=torch.long, device=state.device)
        self.clock = torch.zeros(1, dtype=torch.long, device=state.device)
        self._grows = any(slot.positional for _, slots in state.slots.units() for slot in slots)
        with torch.inference_mode(False), torch.no_grad():
            self._step = make_step(model.backbone)

    def set(self, tokens: Tensor) -> int:
        """Put the tokens [B] and their position in place; returns the keys that are looked at."""
        self.state.reserve(1, None)
        self.tokens.copy_(tokens)
        self.clock.fill_(self.state.position)
        return bucket(self.state.position, self.state.max_length) if self._grows else self.state.max_length

    def logits(self, keys: int) -> Tensor:
        """[B, vocab]. Advances the tensors of the state, not its `position`."""
        call = Call(derived=self.state.derived, clock=self.clock, keys=keys)
        x = self._step(self.model.embedding(self.tokens), call, self.state)
        return self.model.head(self.model.norm(x))


class GraphDecoder:
    """`logits` of a `StaticStep` from a CUDA graph for each number of keys, recorded when it is first needed."""

    def __init__(self, model: LanguageModel, state: State) -> None:
        self._step, self._state = StaticStep(model, state), state
        self._recorded: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens [B] → logits [B, vocab], which the next call overwrites."""
        keys = self._step.set(tokens)
        if keys not in self._recorded:
            self._recorded[keys] = self._record(keys)
        graph, logits = self._recorded[keys]
        graph.replay()
        self._state.position += 1
        return logits

    def _record(self, keys: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """A recording runs nothing, but the warm-up does: afterwards the state is put back."""
        device = self._state.device
        with torch.cuda.device(device):
            before = self._state.fork()
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self._step.logits(keys)
            torch.cuda.current_stream().wait_stream(stream)
            self._state.restore(before)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                logits = self._step.logits(keys)
        return graph, logits
