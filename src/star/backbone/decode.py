"""Decoding a token at a time without gradients: a backbone as a list of functions, made once for its weights.

What depends on weights alone (transposed and joined matrices, sampled state spaces, decays) is made when the first
token is decoded, and again for a new state when weights have changed. The plan holds a second copy of the dense
weights; it serves float32 and float64 on the CPU, where reading weights and calling small functions is all that a token
costs. Where a `Program` can run instead, the plan is made only when it is needed. Norm and head may come after the
backbone; their weights are read where they are at every token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from star.backbone.program import compiled
from star.backbone.state import State
from star.liv import Call
from star.liv.kernels.decoding import DECODING
from star.liv.step import Step, stepper

if TYPE_CHECKING:
    from star.backbone.backbone import Backbone

#: x [B, d] and a state, which is advanced by one token → [B, d], or what the modules after the backbone make of it.
Plan = Callable[[Tensor, State], Tensor]
DTYPES = (torch.float32, torch.float64)
Places = tuple[tuple[object, ...], ...]  # addresses, shapes and strides of weights


class Decoder:
    """Keeps the plan of one backbone, and of what comes after it, for as long as its weights stay as they are.

    A state asks for the plan with its first single token and keeps it: it was filled by these weights. Whether they are
    still those that the plan was made from is told by their sums, once for each state, because optimisers may write to
    weights without a trace. Copies and pickles are empty.
    """

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._made_of: tuple[Tensor, Places] | None = None

    def __reduce__(self) -> tuple[type[Decoder], tuple[()]]:
        return Decoder, ()

    def plan(self, backbone: Backbone, x: Tensor, state: State, *after: nn.RMSNorm | nn.Linear) -> Plan | None:
        """The plan for these weights, or None where the ordinary pass has to serve. `after`: an RMSNorm and a linear
        map without bias that come after the backbone, or nothing."""
        if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return None
        if not x.dtype == state.dtype in DTYPES or x.shape != (state.batch_size, backbone.width):
            return None
        places = tuple((module.weight.data_ptr(), module.weight.shape, module.weight.stride()) for module in after)
        plan, dtype, known = state.derived.get(self, (None, None, None))
        if plan is None or known != places:
            plan, dtype = self._current(backbone, after, places), next(backbone.parameters()).dtype
            state.derived[self] = plan, dtype, places
        return plan if x.dtype == dtype else None

    def _current(self, backbone: Backbone, after: Sequence[nn.RMSNorm | nn.Linear], places: Places) -> Plan:
        with torch.inference_mode(False), torch.no_grad():
            sums = _sums(backbone)
            known = self._made_of
            if self._plan is None or known is None or known[1] != places or not torch.equal(known[0], sums):
                self._plan, self._made_of = self._fastest(backbone, after, sums), (sums, places)
        return self._plan

    def _fastest(self, backbone: Backbone, after: Sequence[nn.RMSNorm | nn.Linear], sums: Tensor) -> Plan:
        """The program of these weights, for states that it does not serve the plan."""
        program = compiled(backbone, *after)
        if program is None:
            return make_plan(backbone, *after)
        made: list[Plan] = []

        def plan(x: Tensor, state: State) -> Tensor:
            if not made:
                with torch.inference_mode(False), torch.no_grad():
                    made.append(make_plan(backbone, *after))
                    if not torch.equal(_sums(backbone), sums):
                        self._plan = None  # weights have changed: good for this state, but not for the next one
            return made[0](x, state)

        return lambda x, state: DECODING(x, partial(plan, state=state), program.bound(state))


def _sums(backbone: Backbone) -> Tensor:
    return torch.stack([weight.double().sum() for weight in backbone.parameters()])


def make_plan(backbone: Backbone, *after: nn.Module) -> Plan:
    """A function that is the backbone for one token, and what comes after it."""
    advanced = make_step(backbone)

    def plan(x: Tensor, state: State) -> Tensor:
        x = advanced(x, Call(state.position, state.reserve(1, None), derived=state.derived), state)
        state.position += 1
        for module in after:
            x = module(x)
        return x

    return plan


def make_step(backbone: Backbone) -> Callable[[Tensor, Call, State], Tensor]:
    """What a plan does with x [B, d] and the tensors of a state; the position is that of the call."""
    stages = [_stage(backbone, number) for number in range(len(backbone.stages))]

    def step(x: Tensor, call: Call, state: State) -> Tensor:
        outputs: dict[int, Tensor] = {}
        for number, (source, kept, advanced) in enumerate(stages):
            x = advanced(x if source is None else x + outputs[source], call, state)
            if kept:
                outputs[number] = x
        return x

    return step


def _stage(backbone: Backbone, number: int) -> tuple[int | None, bool, Callable[[Tensor, Call, State], Tensor]]:
    """The stage whose output a stage adds to its input, whether later ones need its own, and what it makes of u. Paths
    with weights go through the ordinary modules."""
    stage = backbone.stages[number]
    norm = _norm(backbone.norms[number])
    routed = str(number) in backbone.routers
    steps: list[tuple[int, Step]] = [] if routed else [(index, stepper(backbone.livs[index])) for index in stage.livs]  # type: ignore[arg-type]

    def advanced(u: Tensor, call: Call, state: State) -> Tensor:
        x = norm(u)
        if routed:
            return u + backbone.combined(number, x.unsqueeze(1), call, state).squeeze(1)
        for index, step in steps:
            u = step(x, u, call, state.livs[index])
        return u

    return stage.source, number in backbone.sources, advanced


def _norm(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """RMSNorm as x ⊙ g √d / √(|x|² + d ε), half as many passes as torch makes."""
    if not isinstance(module, nn.RMSNorm):
        return module
    weight, size = module.weight, module.weight.numel()
    gain, least = weight * sqrt(size), weight.new_tensor(sqrt(size * (module.eps or 0.0)))

    def norm(x: Tensor) -> Tensor:
        return (x * gain).div_(torch.linalg.vector_norm(x, 2, -1, True).hypot_(least))

    return norm
