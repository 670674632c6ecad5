"""A backbone: LIVs in pre-norm residuals, connected as its genome says (paper 2, 3.1)."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from star.backbone.state import State
from star.errors import StarError
from star.genome import BackboneGenome, OptionPool, require_valid, wiring
from star.liv import LIV, Call, Sharing

NORM_EPSILON = 1e-5
MAX_WIDTH = 1 << 20
MAX_LENGTH = 1 << 30


class Backbone(nn.Module):
    """y^m = T(norm(y^{m-1})) norm(y^{m-1}) + y^{m-1} for each LIV in turn. [B, ℓ, d] → [B, ℓ, d].

    Raises `StarError` for a genome that is invalid over the pool, or a width that its LIVs cannot have.
    """

    def __init__(self, genome: BackboneGenome, pool: OptionPool, *, width: int, length: int = 4096) -> None:
        super().__init__()
        require_valid(genome, pool)
        if width < 8 or width % 8 or width > MAX_WIDTH:
            raise StarError(f"width {width} is no multiple of 8 from 8 to {MAX_WIDTH}; use 64, 128, 256 and so on.")
        if not 1 <= length <= MAX_LENGTH:
            raise StarError(f"length {length} is not from 1 to {MAX_LENGTH}; give the tokens that sequences have.")
        self.genome, self.pool, self.width, self.length = genome, pool, width, length
        wires = wiring(genome, pool)
        livs: list[LIV] = []
        for index, segment in enumerate(genome):
            row = pool[segment.liv]
            modules = tuple(
                {
                    name: livs[owner].operators[branch].featurizer.groups[name]
                    for name, owner in wires.owners[index].items()
                    if owner != index
                }
                for branch in range(2 if row.differential else 1)
            )
            given = frozenset(name for taken in wires.taken for name, source in taken.items() if source == index)
            livs.append(LIV(row, width, length, Sharing(index, wires.taken[index], given, modules)))
            livs[-1].scale_output(1 / sqrt(genome.depth))
        self.norms = nn.ModuleList(
            nn.RMSNorm(width, eps=NORM_EPSILON) if liv.operators[0].reads_input else nn.Identity() for liv in livs
        )
        self.livs = nn.ModuleList(livs)

    def init_state(self, batch_size: int, max_length: int, dtype: torch.dtype | None = None) -> State:
        """An empty decoding state; dtype defaults to the weights', recurrent states are float32 or better."""
        if batch_size < 1 or not 1 <= max_length <= MAX_LENGTH:
            raise StarError(
                f"a state for {batch_size} sequences of {max_length} tokens cannot be made; both are at least 1, "
                f"and tokens at most {MAX_LENGTH}."
            )
        weight = next(self.parameters())
        slots = [liv.slots(max_length) for liv in self.livs]  # type: ignore[operator]
        return State.allocate(slots, batch_size, max_length, dtype or weight.dtype, weight.device)

    def materialize(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The same as `forward` for the start of sequences x [B, ℓ, d], by way of every T written out; also returns
        these, one [B, heads or channels, ℓ, ℓ] for each LIV. For tests and pictures: memory grows with ℓ²."""
        call, matrices = Call(), []
        for norm, liv in zip(self.norms, self.livs, strict=True):
            matrix, y = liv.materialized(norm(x), call)  # type: ignore[operator]
            matrices.append(matrix)
            x = x + y
        return x, matrices

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> Tensor:
        """x: [B, ℓ, d]; mask: [B, ℓ] bool, False at padding. A state is advanced by ℓ tokens."""
        length = x.shape[1]
        if mask is not None and mask.shape != x.shape[:2]:
            raise StarError(f"the attention mask is {list(mask.shape)}; for these tokens it is {list(x.shape[:2])}.")
        if state is not None and state.batch_size != x.shape[0]:
            raise StarError(f"the state is for {state.batch_size} sequences, not for {x.shape[0]}; init or reorder it.")
        if state is not None:
            call = Call(state.position, state.reserve(length, mask))
        else:
            call = Call(0, None if mask is None or bool(mask.all()) else mask)
        real = None if call.valid is None else call.valid[:, call.position :, None]
        for index, (norm, liv) in enumerate(zip(self.norms, self.livs, strict=True)):
            inputs = norm(x)
            if real is not None:
                inputs = inputs * real  # without biases, padding then leaves every state empty
            x = x + liv(inputs, call, None if state is None else state.livs[index])
        if state is not None:
            state.position += length
        return x
