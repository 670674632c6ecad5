"""A backbone: stages of LIVs in pre-norm residuals, connected as its genome says (paper 2, 3.1, A.7)."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from star.backbone.decode import Decoder
from star.backbone.norm import EPSILON, RMSNorm
from star.backbone.routing import ROUTERS, LiquidRouter
from star.backbone.state import Slots, State
from star.errors import StarError
from star.genome import BackboneGenome, OptionPool, require_valid, stages, wiring
from star.liv import LIV, Call, Sharing
from star.liv.operator import Fused

MAX_WIDTH = 1 << 20
MAX_LENGTH = 1 << 30


def require_backbone(genome: BackboneGenome, pool: OptionPool, width: int, length: int) -> None:
    """StarError for a genome that is invalid over the pool, or sizes that no backbone has."""
    require_valid(genome, pool)
    if width < 8 or width % 8 or width > MAX_WIDTH:
        raise StarError(f"width {width} is no multiple of 8 from 8 to {MAX_WIDTH}; use 64, 128, 256 and so on.")
    if not 1 <= length <= MAX_LENGTH:
        raise StarError(f"length {length} is not from 1 to {MAX_LENGTH}; give the tokens that sequences have.")


class Backbone(nn.Module):
    """y^n = u + Σ_p w_p T_p(norm(u)) norm(u) for each stage in turn, with u = y^{n-1}, plus the output of an earlier
    stage where a residual group says so (A.7), over the parallel paths p of the stage. [B, ℓ, d] → [B, ℓ, d].

    `genome` is the given one without identities. `top1`: in evaluation, a liquid router lets only its favourite path
    speak for each token, and work for the others is skipped as far as their states allow.

    Raises `StarError` for a genome that is invalid over the pool, or a width that its LIVs cannot have.
    """

    def __init__(self, genome: BackboneGenome, pool: OptionPool, *, width: int, length: int = 4096) -> None:
        super().__init__()
        require_backbone(genome, pool, width, length)
        genome = genome.without_identities()
        self.genome, self.pool, self.width, self.length = genome, pool, width, length
        self.stages = stages(genome)
        self.top1 = False
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
        self.norms = nn.ModuleList(self._norm([livs[index] for index in stage.livs]) for stage in self.stages)
        self.livs = nn.ModuleList(livs)
        self.routers = nn.ModuleDict(
            {
                str(number): ROUTERS[stage.routing](width, len(stage.livs))
                for number, stage in enumerate(self.stages)
                if stage.routing in ROUTERS
            }
        )
        self._decoder = Decoder()
        self.sources = frozenset(stage.source for stage in self.stages)

    def _norm(self, livs: list[LIV]) -> nn.Module:
        reads = any(operator.reads_input for liv in livs for operator in liv.operators[:1])
        return RMSNorm(self.width) if reads else nn.Identity()

    def init_state(self, batch_size: int, max_length: int, dtype: torch.dtype | None = None) -> State:
        """An empty decoding state; dtype defaults to the weights', recurrent states are float32 or better."""
        if batch_size < 1 or not 1 <= max_length <= MAX_LENGTH:
            raise StarError(
                f"a state for {batch_size} sequences of {max_length} tokens cannot be made; both are at least 1, "
                f"and tokens at most {MAX_LENGTH}."
            )
        weight = next(self.parameters())
        return State.allocate(self.slots(max_length), batch_size, max_length, dtype or weight.dtype, weight.device)

    def slots(self, max_length: int) -> Slots:
        """What a state for one sequence of up to `max_length` tokens holds."""
        livs = [liv.slots(max_length) for liv in self.livs]  # type: ignore[operator]
        return Slots(livs, {number: router.slots() for number, router in self.routers.items()})  # type: ignore[operator]

    def materialize(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The same as `forward` for the start of sequences x [B, ℓ, d], by way of every T written out; also returns
        these, one [B, heads or channels, ℓ, ℓ] for each LIV. For tests and pictures: memory grows with ℓ²."""
        call, matrices = Call(), []
        outputs: dict[int, Tensor] = {}
        for number, stage in enumerate(self.stages):
            u = x if stage.source is None else x + outputs[stage.source]
            inputs = self.norms[number](u)
            written = [self.livs[index].materialized(inputs, call) for index in stage.livs]  # type: ignore[operator]
            matrices += [matrix for matrix, _ in written]
            weights = self._weights(number, inputs, None)
            x = u + _combined([y for _, y in written], weights)
            if number in self.sources:
                outputs[number] = x
        return x, matrices

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> Tensor:
        """x: [B, ℓ, d]; mask: [B, ℓ] bool, False at padding. A state is advanced by ℓ tokens."""
        length = x.shape[1]
        if x.shape[2] != self.width:
            raise StarError(f"x has {x.shape[2]} channels, but the backbone is {self.width} wide.")
        if mask is not None and mask.shape != x.shape[:2]:
            raise StarError(f"the attention mask is {list(mask.shape)}; for these tokens it is {list(x.shape[:2])}.")
        if state is not None and state.batch_size != x.shape[0]:
            raise StarError(f"the state is for {state.batch_size} sequences, not for {x.shape[0]}; init or reorder it.")
        if state is not None and mask is None and length == 1 and not torch.is_grad_enabled():
            plan = self._decoder.plan(self, x.squeeze(1), state)
            if plan is not None:
                return plan(x.squeeze(1), state).unsqueeze(1)
        if state is not None:
            call = Call(state.position, state.reserve(length, mask), derived=state.derived)
        else:
            call = Call(0, None if mask is None or bool(mask.all()) else mask)
        real = None if call.valid is None else call.valid[:, call.position :, None]
        outputs: dict[int, Tensor] = {}
        update: Tensor | None = None  # of the stage before, still to be added to x
        for number, stage in enumerate(self.stages):
            if stage.source is not None:
                x = x + outputs[stage.source]
            fused = None if real is not None else self._fused(number, x, update, call, state)
            if fused is not None:
                x, update = fused
            else:
                x, inputs = self._normed(number, x, update)
                if real is not None:
                    inputs = inputs * real  # without biases, padding then leaves every state empty
                update = self.combined(number, inputs, call, state)
            if number in self.sources:
                x, update = x + update, None
                outputs[number] = x
        if state is not None:
            state.position += length
        return x if update is None else x + update

    def _fused(self, number: int, x: Tensor, update: Tensor | None, call: Call, state: State | None) -> Fused:
        """x + update and what a stage adds to it, where norm and LIV are one kernel; else None."""
        stage, norm = self.stages[number], self.norms[number]
        if len(stage.livs) > 1 or str(number) in self.routers or not isinstance(norm, RMSNorm):
            return None
        liv: LIV = self.livs[stage.livs[0]]  # type: ignore[assignment]
        own = None if state is None else state.livs[stage.livs[0]]
        return liv.fused(x, call, own, update, norm.weight, EPSILON)

    def _normed(self, number: int, x: Tensor, update: Tensor | None) -> tuple[Tensor, Tensor]:
        """x + update, and what the LIVs of a stage read of it."""
        norm = self.norms[number]
        if isinstance(norm, RMSNorm):
            return norm.after(x, update)
        total = x if update is None else x + update
        return total, total

    def combined(self, number: int, inputs: Tensor, call: Call, state: State | None) -> Tensor:
        """What the LIVs of a stage, given by number, add to the stream: [B, ℓ, d]."""
        stage = self.stages[number]
        weights = self._weights(number, inputs, None if state is None else state.routers.get(str(number)))
        needed = (
            [None] * len(stage.livs) if weights is None or not self._one_path(number) else list(weights[..., 0] > 0)
        )
        return _combined(
            [
                self.livs[index](inputs, call, None if state is None else state.livs[index], tokens)
                for index, tokens in zip(stage.livs, needed, strict=True)
            ],
            weights,
        )

    def _one_path(self, number: int) -> bool:
        return self.top1 and not self.training and isinstance(self.routers[str(number)], LiquidRouter)

    def _weights(self, number: int, inputs: Tensor, state: dict[str, Tensor] | None) -> Tensor | None:
        """The weights of a stage's paths, [paths, 1 or B, 1 or ℓ, 1 or d]; None where they are only added."""
        if str(number) not in self.routers:
            return None
        weights: Tensor = self.routers[str(number)](inputs, state)
        if self._one_path(number):
            best = weights.argmax(0, keepdim=True)
            weights = torch.zeros_like(weights).scatter(0, best, 1.0)
        return weights


def _combined(outputs: list[Tensor], weights: Tensor | None) -> Tensor:
    total = outputs[0] if weights is None else weights[0] * outputs[0]
    for path, output in enumerate(outputs[1:], start=1):
        total = total + (output if weights is None else weights[path] * output)
    return total
