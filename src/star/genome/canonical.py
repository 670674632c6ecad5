"""The canonical form of a backbone genome: one genome for each network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from star.genome.backbone import BackboneGenome, Segment
from star.genome.composition import Stage, stages
from star.genome.extension import FIRST_DERIVED, Routing
from star.genome.parallel import network, orders, rearranged
from star.genome.pool import OptionPool
from star.genome.wiring import Resolver, Row

MOST_STEPS = 10  # for each LIV, in search of segments


def canonical_genome(genome: BackboneGenome, pool: OptionPool) -> BackboneGenome:
    """The canonical genome of a valid one, a function of its LIV classes, their wiring and their stages.

    LIV by LIV, the first segment in the order of `Resolver.matches` that gives the same wiring. Parallel paths, whose
    order makes no difference to a sum, are ordered by class and then by what they share, see `star.genome.parallel`;
    of the orders that are left, the one whose genome is smallest. Only where there are too many of them to try, two
    genomes of one network may differ.
    """
    genome = genome.without_identities()
    composed = stages(genome)
    best = _smallest(genome, composed, pool) or _relabelled(genome)
    return BackboneGenome(tuple(_composed(best, composed)))


def numbered_by_content(genome: BackboneGenome, pool: OptionPool) -> tuple[BackboneGenome, OptionPool]:
    """The same network, with its derived classes numbered by what they are; over a pool that has them so."""
    found = {
        segment.liv: pool[segment.liv] for segment in genome if segment.liv >= FIRST_DERIVED and segment.liv in pool
    }
    if not found:
        return genome, pool
    ordered = sorted(found.values(), key=lambda row: (row.identity, row.strategies, row.id))
    numbers = {row.id: number for number, row in enumerate(ordered, start=FIRST_DERIVED)}
    rows = [replace(row, id=numbers[row.id], operator=replace(row.operator, featurizer=0)) for row in ordered]
    segments = tuple(replace(segment, liv=numbers.get(segment.liv, segment.liv)) for segment in genome)
    kept = tuple(row for row in pool.rows if row.id < FIRST_DERIVED)
    return BackboneGenome(segments), OptionPool(pool.name, (*kept, *rows), pool.extensions)


def _smallest(genome: BackboneGenome, composed: tuple[Stage, ...], pool: OptionPool) -> list[Segment] | None:
    """The segments of the best order. Not every order has a genome: a source comes before who takes from it, learned
    constants pass from LIV to LIV. Further orders are tried only where none of the first has one."""
    built = network(genome, composed, pool)
    for candidates in orders(built):
        tried: list[list[Row]] = []  # orders that a symmetry of the network turns into each other have the same rows
        found = []
        for order in candidates:
            if (rows := rearranged(built, order)) not in tried:
                tried.append(rows)
                found.append(_resolved([built.classes[index] for index in order], rows, pool))
        if segments := [each for each in found if each is not None]:
            return min(segments, key=lambda each: BackboneGenome(tuple(each)).flat(5))
    return None


def _resolved(classes: Sequence[int], rows: Sequence[Row], pool: OptionPool) -> list[Segment] | None:
    """The first segments that give these rows; None where there are none, or where finding them takes too long."""
    resolver = Resolver(pool)
    matches: list[Iterator[Segment]] = []
    for _ in range(MOST_STEPS * len(rows)):
        index = len(resolver.segments)
        if index == len(rows):
            return resolver.segments
        if index == len(matches):
            matches.append(resolver.matches(classes[index], rows[index]))
        segment = next(matches[-1], None)
        if segment is not None:
            resolver.add(segment)
        elif index == 0:
            return None
        else:  # the one before has to be another
            matches.pop()
            resolver.drop()
    return None


def _composed(segments: Sequence[Segment], composed: tuple[Stage, ...]) -> list[Segment]:
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
    """The same sharing with groups numbered in order of appearance; for networks so entangled, by learned constants
    shared in two ways, that `MOST_STEPS` find no segments for them."""
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
