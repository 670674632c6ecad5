"""Decoding a token at a time without gradients: a backbone as a list of functions, made once for its weights.

What depends on weights alone (transposed and joined matrices, sampled state spaces, decays) is made when the first
token is decoded and again when any weight has changed. The plan holds a second copy of the dense weights; it serves
float32 and float64 on the CPU, where reading weights and calling small functions is all that a token costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from star.backbone.state import State
from star.liv import Call
from star.liv.step import Step, stepper

if TYPE_CHECKING:
    from star.backbone.backbone import Backbone

#: x [B, d] and a state, which is advanced by one token → [B, d].
Plan = Callable[[Tensor, State], Tensor]
DTYPES = (torch.float32, torch.float64)


class Decoder:
    """Keeps the plan of one backbone for as long as its weights stay as they are.

    Copies and pickles are empty: a plan belongs to the weights that it was made from.
    """

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._made_from: list[tuple[dict[str, nn.Parameter | None], str, nn.Parameter, int, int]] = []

    def __reduce__(self) -> tuple[type[Decoder], tuple[()]]:
        return Decoder, ()

    def plan(self, backbone: Backbone, x: Tensor, state: State) -> Plan | None:
        """The plan for these weights, or None where the ordinary pass has to serve."""
        if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return None
        if self._plan is None or self._outdated():
            # Weights made in inference mode do not tell when they change.
            if any(weight.is_inference() for weight in backbone.parameters()):
                return None
            with torch.inference_mode(False), torch.no_grad():
                self._plan = make_plan(backbone)
            self._made_from = list(_weights(backbone))
        dtype = self._made_from[0][2].dtype
        return self._plan if x.dtype == state.dtype == dtype and dtype in DTYPES else None

    def _outdated(self) -> bool:
        """Whether a weight is another, lies elsewhere, or was written to."""
        return any(
            held.get(name) is not weight or weight._version != version or weight.data_ptr() != place
            for held, name, weight, version, place in self._made_from
        )


def _weights(
    backbone: nn.Module,
) -> Iterator[tuple[dict[str, nn.Parameter | None], str, nn.Parameter, int, int]]:
    """Where each weight is held, its name there, the weight, its version, and where it lies."""
    for module in backbone.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                yield module._parameters, name, weight, weight._version, weight.data_ptr()


def make_plan(backbone: Backbone) -> Plan:
    """A function that is the backbone for one token."""
    stages = [_stage(backbone, number) for number in range(len(backbone.stages))]

    def plan(x: Tensor, state: State) -> Tensor:
        call = Call(state.position, state.reserve(1, None))
        outputs: dict[int, Tensor] = {}
        for number, (source, kept, advanced) in enumerate(stages):
            x = advanced(x if source is None else x + outputs[source], call, state)
            if kept:
                outputs[number] = x
        state.position += 1
        return x

    return plan


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
