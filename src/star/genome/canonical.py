"""The canonical form of a backbone genome: one genome for each network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, permutations, product

from star.genome.backbone import BackboneGenome, Segment
from star.genome.composition import Stage, stages
from star.genome.extension import Routing
from star.genome.pool import OptionPool
from star.genome.wiring import Resolver, Row, wiring

MOST_ORDERS = 720  # of parallel paths of one class, tried for the smallest genome


def canonical_genome(genome: BackboneGenome, pool: OptionPool) -> BackboneGenome:
    """The canonical genome of a valid one, a function of its LIV classes, their wiring and their stages.

    LIV by LIV, the first segment in a fixed order that gives the same wiring: feature groups taken before featurizer
    sharing, nothing before something, earlier groups before later ones. Of all orders of parallel paths, which make no
    difference to a sum, the one whose genome is smallest; where that are more than `MOST_ORDERS`, the paths are only
    ordered by class.
    """
    genome = genome.without_identities()
    composed = stages(genome)
    wires = wiring(genome, pool)
    rows = list(zip(wires.taken, wires.owners, strict=True))
    found: list[tuple[Segment, ...]] = []
    for order in _orders(genome, composed):
        moved = rows if order == list(range(genome.depth)) else _moved(rows, order)
        segments = _resolved([genome.segments[index].liv for index in order], moved, pool)
        if segments is not None:
            found.append(tuple(segments))
    best = min(found, default=tuple(_relabelled(genome)), key=lambda segments: BackboneGenome(segments).flat(5))
    return BackboneGenome(tuple(_composed(best, composed)))


def _orders(genome: BackboneGenome, composed: tuple[Stage, ...]) -> Iterator[list[int]]:
    """Orders of the LIVs that make the same network as far as stages go: within each stage by class, those of one class
    in any order."""
    choices = []
    for stage in composed:
        by_class: dict[int, list[int]] = {}
        for index in stage.livs:
            by_class.setdefault(genome.segments[index].liv, []).append(index)
        choices += [list(islice(permutations(by_class[liv]), MOST_ORDERS + 1)) for liv in sorted(by_class)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MOST_ORDERS:
        choices = [choice[:1] for choice in choices]
    return ([index for part in parts for index in part] for parts in product(*choices))


def _moved(rows: list[Row], order: list[int]) -> list[Row]:
    """The rows of a wiring after its LIVs were put in another order. Weights belong to whoever computes first."""
    place = {index: position for position, index in enumerate(order)}
    first: dict[tuple[int, str], int] = {}
    for position, index in enumerate(order):
        for name, owner in rows[index][1].items():
            first.setdefault((owner, name), position)
    return [
        (
            {name: place[source] for name, source in rows[index][0].items()},
            {name: first[owner, name] for name, owner in rows[index][1].items()},
        )
        for index in order
    ]


def _resolved(classes: list[int], rows: list[Row], pool: OptionPool) -> list[Segment] | None:
    """The first segments in the fixed order that give these rows; None where there are none."""
    resolver = Resolver(pool)
    for liv, row in zip(classes, rows, strict=True):
        segment = next((choice for choice in resolver.choices(liv) if resolver.resolve(choice) == row), None)
        if segment is None:
            return None
        resolver.add(segment)
    return resolver.segments


def _composed(segments: tuple[Segment, ...], composed: tuple[Stage, ...]) -> list[Segment]:
    """Segments with the integers of their stages, groups numbered in order of appearance."""
    sources = sorted({stage.source for stage in composed if stage.source is not None})
    residual = {source: number for number, source in enumerate(sources, start=1)}
    found = list(segments)
    paths = start = 0
    for index, stage in enumerate(composed):
        members = range(start, start := start + len(stage.livs))
        parallel = len(members) > 1
        paths += parallel
        for position in members:
            leads = position == members[0]
            found[position] = replace(
                segments[position],
                residual_group=residual.get(index if stage.source is None else stage.source, 0) if leads else 0,
                path_group=paths if parallel else 0,
                routing=int(stage.routing) if leads else int(Routing.SUM),
            )
    return found


def _relabelled(genome: BackboneGenome) -> list[Segment]:
    """The same sharing with groups numbered in order of appearance. Only needed where a LIV has weights from two others
    that no single group of the reduced genome holds, which takes a class with learned constants."""
    segments = list(genome)
    for group, strategy in (("featurizer_group", "featurizer_strategy"), ("feature_group", "feature_strategy")):
        numbers: dict[tuple[int, int], int] = {}
        used: Counter[int] = Counter()
        for index, segment in enumerate(segments):
            key = (segment.liv, getattr(segment, group))
            if key not in numbers or getattr(segment, strategy) == 1:
                used[segment.liv] += 1
                numbers.setdefault(key, used[segment.liv])
                number, value = used[segment.liv], 1
            else:
                number, value = numbers[key], getattr(segment, strategy)
            segments[index] = replace(segment, **{group: number, strategy: value})
    return segments
