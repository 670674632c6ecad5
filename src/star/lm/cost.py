"""Parameters and cache of an architecture, counted on the meta device: nothing is allocated, nothing is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from star.backbone.backbone import require_backbone
from star.backbone.routing import ROUTERS
from star.genome import BackboneGenome, LivClass, OptionPool, Routing, stages, wiring
from star.liv import LIV, Sharing

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
    require_backbone(genome, pool, width, length)
    genome = genome.without_identities()
    wires = wiring(genome, pool)
    rows = []
    for stage in stages(genome):  # their LIVs follow each other
        livs = [
            lone_liv(pool[genome.segments[index].liv], width, length, frozenset(wires.taken[index]))
            for index in stage.livs
        ]
        for index, liv in zip(stage.livs, livs, strict=True):
            shared = {name for name, owner in wires.owners[index].items() if owner != index}
            parameters = liv.parameters - sum(liv.groups[name] for name in shared)
            elements = liv.elements(length)
            if index == stage.livs[0]:
                router = lone_router(stage.routing, width, len(stage.livs))
                parameters += router.parameters + width * any(each.reads_input for each in livs)
                elements += router.elements
            sharing = _sharing(wires.taken[index], wires.owners[index], index)
            row = liv.row
            rows.append(LivCost(index, row.id, row.name, sharing, parameters, elements * element_bytes))
    total = sum(row.parameters for row in rows) + width  # the final norm
    return Cost(tuple(rows), total, sum(row.cache_bytes for row in rows), width, length)


@dataclass(frozen=True)
class LoneLiv:
    """A LIV on the meta device that shares no weights. `parameters` are all of them, `groups` those of each group of
    its featurizer, over all branches."""

    liv: LIV
    parameters: int
    groups: Mapping[str, int]

    @property
    def row(self) -> LivClass:
        return self.liv.row

    @property
    def reads_input(self) -> bool:
        return self.liv.operators[0].reads_input

    def elements(self, length: int) -> int:
        """Of the state for one sequence of `length` tokens."""
        return sum(slot.elements for branch in self.liv.slots(length) for slot in branch)


@dataclass(frozen=True)
class LoneRouter:
    """What the router of a stage has; nothing where outputs are just added."""

    parameters: int
    elements: int


@lru_cache(maxsize=256)
def lone_liv(row: LivClass, width: int, length: int, taken: frozenset[str]) -> LoneLiv:
    """A LIV by itself, which takes the groups `taken`. Building modules is what takes time in counting, and a search
    counts the same few again and again: they are kept."""
    with torch.device("meta"), Uninitialised():
        liv = LIV(row, width, length, Sharing(taken=dict.fromkeys(taken, 0)))
    groups: Counter[str] = Counter()
    for operator in liv.operators:
        groups.update({name: weights_of(group) for name, group in operator.featurizer.groups.items()})
    return LoneLiv(liv, weights_of(liv), groups)


@lru_cache(maxsize=1024)
def lone_router(routing: Routing, width: int, paths: int) -> LoneRouter:
    """The router of a stage of so many paths."""
    if routing not in ROUTERS:
        return LoneRouter(0, 0)
    with torch.device("meta"), Uninitialised():
        router = ROUTERS[routing](width, paths)
    return LoneRouter(weights_of(router), sum(slot.elements for slot in router.slots()))


def weights_of(module: nn.Module) -> int:
    """Parameters of a module, each counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


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
