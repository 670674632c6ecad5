"""Orders of parallel paths: which LIVs of a stage may change places, by colour refinement.

LIVs get colours, at first by stage and class. Two LIVs of one colour get different ones as soon as they share with LIVs
of different colours; where that ends, LIVs that still look alike are told apart by choosing one of them, each in turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice, permutations, product
from math import factorial, prod

from star.genome.backbone import BackboneGenome
from star.genome.composition import Stage
from star.genome.pool import OptionPool
from star.genome.wiring import Row, wiring

MOST_ORDERS = 120  # that are tried

Shared = tuple[int, str]  # a tensor, by the LIV that computes it and its group; or weights, by their owner


@dataclass(frozen=True)
class Use:
    """One feature group of one LIV: whose tensor it is, with whose weights; a learned constant is no tensor. `fixed`:
    nobody else of the stage could compute the tensor, which is made from another one of its LIV."""

    tensor: Shared | None
    weights: Shared
    fixed: bool

    def leads(self, index: int) -> bool:
        """True where LIV `index`, whose use this is, computes the tensor."""
        return self.tensor is not None and self.tensor[0] == index


@dataclass(frozen=True)
class Network:
    """A genome as what it builds: for each LIV its stage, its class and what its feature groups use."""

    stage: tuple[int, ...]
    classes: tuple[int, ...]
    uses: tuple[dict[str, Use], ...]


def network(genome: BackboneGenome, composed: tuple[Stage, ...], pool: OptionPool) -> Network:
    """The network of a valid genome without identities."""
    wires = wiring(genome, pool)
    uses = []
    for index, segment in enumerate(genome):
        row, taken = pool[segment.liv], wires.taken[index]
        fixed = row.reading_v
        uses.append(
            {
                name: Use(
                    (taken.get(name, index), name) if group.from_input else None,
                    (wires.owners[taken.get(name, index)][name], name),
                    name in fixed,
                )
                for name, group in row.groups.items()
            }
        )
    stage = tuple(number for number, stage in enumerate(composed) for _ in stage.livs)
    return Network(stage, tuple(segment.liv for segment in genome), tuple(uses))


def orders(built: Network) -> Iterator[list[list[int]]]:
    """Orders of the LIVs, stage by stage and within each by class, such that two genomes of one network have the same
    ones: first by what LIVs share; then with sources before the LIVs that take from them; then all of them. Last, where
    there are more than `MOST_ORDERS`, the one that the genome has."""
    cells = list(zip(built.stage, built.classes, strict=True))
    for sources_first in (False, True):
        shares = _shares(built, sources_first)
        follows = [tuple(share.follows for share in groups) for groups in shares]
        colours = _refined(_ranks(list(zip(cells, follows, strict=True))), shares)
        yield list(islice(_told_apart(colours, shares), MOST_ORDERS))
    given = sorted(range(len(cells)), key=cells.__getitem__)
    if prod(factorial(count) for count in Counter(cells).values()) > MOST_ORDERS:
        yield [given]
    else:
        within = [permutations(cell) for _, cell in groupby(given, key=cells.__getitem__)]
        yield [[index for part in parts for index in part] for parts in product(*within)]


def rearranged(built: Network, order: list[int]) -> list[Row]:
    """The wiring after the LIVs were put in another order. Weights belong to whoever computes first, and a tensor is
    computed by whoever of its stage uses it first: all of them read the same input."""
    computers: dict[Shared, int] = {}
    owners: dict[Shared, int] = {}
    for position, index in enumerate(order):
        for use in built.uses[index].values():
            if use.tensor is not None:
                same_stage = built.stage[use.tensor[0]] == built.stage[index]
                if use.leads(index) or (same_stage and not use.fixed):
                    computers.setdefault(use.tensor, position)
            if use.tensor is None or computers.get(use.tensor) == position:
                owners.setdefault(use.weights, position)
    rows: list[Row] = []
    for position, index in enumerate(order):
        uses = built.uses[index].items()
        sources = {name: computers[use.tensor] for name, use in uses if use.tensor is not None}
        taken = {name: source for name, source in sources.items() if source != position}
        rows.append((taken, {name: owners[use.weights] for name, use in uses if name not in taken}))
    return rows


@dataclass(frozen=True)
class _Share:
    """One feature group of one LIV: whether it follows another LIV, which has to come first, and all the LIVs that have
    the same tensor, or the same weights."""

    follows: bool
    tensor: tuple[int, ...]
    weights: tuple[int, ...]


def _shares(built: Network, sources_first: bool) -> list[list[_Share]]:
    tensors: dict[Shared, list[int]] = {}
    weights: dict[Shared, list[int]] = {}
    for index, uses in enumerate(built.uses):
        for use in uses.values():
            weights.setdefault(use.weights, []).append(index)
            if use.tensor is not None:
                tensors.setdefault(use.tensor, []).append(index)
    return [
        [
            _Share(
                follows=(use.fixed or sources_first) and use.tensor is not None and not use.leads(index),
                tensor=tuple(tensors[use.tensor]) if use.tensor else (),
                weights=tuple(weights[use.weights]),
            )
            for use in uses.values()
        ]
        for index, uses in enumerate(built.uses)
    ]


def _refined(colours: list[int], shares: list[list[_Share]]) -> list[int]:
    """Colours that differ where those of the LIVs differ with which something is shared."""
    count = 0
    while count < len(set(colours)) < len(colours):
        count = len(set(colours))
        colours = _ranks([(colours[index], *_seen(groups, colours)) for index, groups in enumerate(shares)])
    return colours


def _seen(groups: list[_Share], colours: list[int]) -> Iterator[tuple[int, ...]]:
    for share in groups:
        for livs in (share.tensor, share.weights):
            yield tuple(sorted(colours[index] for index in livs))


def _told_apart(colours: list[int], shares: list[list[_Share]]) -> Iterator[list[int]]:
    """All orders by colours that tell LIVs apart; except twins, which share with the same LIVs or with none."""
    cells: dict[int, dict[tuple, int]] = {}
    for index, colour in enumerate(colours):
        twins = tuple(who if len(who) > 1 else () for share in shares[index] for who in (share.tensor, share.weights))
        cells.setdefault(colour, {}).setdefault(twins, index)
    alike = next((cell for _, cell in sorted(cells.items()) if len(cell) > 1), None)
    if alike is None:
        yield sorted(range(len(colours)), key=colours.__getitem__)
        return
    for first in alike.values():
        chosen = _ranks([(colour, index != first) for index, colour in enumerate(colours)])
        yield from _told_apart(_refined(chosen, shares), shares)


def _ranks(keys: list) -> list[int]:
    """The place of each key among the different ones."""
    numbers = {key: rank for rank, key in enumerate(sorted(set(keys)))}
    return [numbers[key] for key in keys]
