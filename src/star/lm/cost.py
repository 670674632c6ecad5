"""Parameters and cache of an architecture, counted on the meta device: nothing is allocated, nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from star.backbone import Backbone
from star.genome import BackboneGenome, OptionPool, wiring

BF16_BYTES = 2


@dataclass(frozen=True)
class LivCost:
    """One LIV. `parameters` are those that no earlier LIV owns; `cache_bytes` what one sequence of the length takes."""

    index: int
    liv: int
    name: str
    sharing: str
    parameters: int
    cache_bytes: int


@dataclass(frozen=True)
class Cost:
    """Totals without embeddings, as in the paper; the norms count."""

    rows: tuple[LivCost, ...]
    parameters: int
    cache_bytes: int
    width: int
    length: int


def analyse(
    genome: BackboneGenome, pool: OptionPool, *, width: int, length: int, element_bytes: int = BF16_BYTES
) -> Cost:
    """Cost of `genome` at `width`, the cache for one sequence of `length` tokens with `element_bytes` an element (2:
    bf16, the paper's figures). Identities have no row; the norm and the router of a stage count with its first LIV.
    Raises `StarError` as `Backbone` does."""
    with torch.device("meta"), Uninitialised():
        backbone = Backbone(genome, pool, width=width, length=length)
    genome = backbone.genome
    wires = wiring(genome, pool)
    slots = backbone.slots(length)
    seen: set[int] = set()
    rows = []
    for number, stage in enumerate(backbone.stages):
        for index in stage.livs:
            modules, held = [backbone.livs[index]], [slot for branch in slots.livs[index] for slot in branch]
            if index == stage.livs[0]:
                modules.append(backbone.norms[number])
                if str(number) in backbone.routers:
                    modules.append(backbone.routers[str(number)])
                    held += slots.routers[str(number)]
            own = {id(p): p for module in modules for p in module.parameters() if id(p) not in seen}
            seen.update(own)
            row = pool[genome.segments[index].liv]
            rows.append(
                LivCost(
                    index,
                    row.id,
                    row.name,
                    _sharing(wires.taken[index], wires.owners[index], index),
                    sum(parameter.numel() for parameter in own.values()),
                    sum(slot.elements for slot in held) * element_bytes,
                )
            )
    parameters = sum(row.parameters for row in rows) + width  # the final norm
    return Cost(tuple(rows), parameters, sum(row.cache_bytes for row in rows), width, length)


class Uninitialised(TorchFunctionMode):
    """Leaves weights as they are: drawing values that nobody keeps takes most of the time of building on meta, and a
    search waits for it between generations."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _sharing(taken: dict[str, int], owners: dict[str, int], index: int) -> str:
    """In words: ``weights of q, k, v from 0; k from 2``. LIVs count from 0."""
    weights: dict[int, list[str]] = {}
    features: dict[int, list[str]] = {}
    for name, owner in owners.items():
        if owner != index:
            weights.setdefault(owner, []).append(name)
    for name, source in taken.items():
        features.setdefault(source, []).append(name)
    parts = [f"weights of {', '.join(names)} from {owner}" for owner, names in sorted(weights.items())]
    parts += [f"{', '.join(names)} from {source}" for source, names in sorted(features.items())]
    return "; ".join(parts)
