"""Which backbone genomes are valid over a pool, with every reason spelled out, and the repair of paper 4.2."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from random import Random

from star.errors import StarError
from star.genome.backbone import BackboneGenome, Segment
from star.genome.extension import IDENTITY, Extension, Routing
from star.genome.pool import OptionPool, ranges

FEATURIZER_STRATEGIES = (1, 2)  # A.6.1: no weights are shared, all weights are shared

#: Field of a segment, its extension, the value that means nothing, and its name in messages.
OPTIONAL = (
    ("residual_group", Extension.RESIDUAL, 0, "residual group (integer 6)"),
    ("path_group", Extension.PATHS, 0, "path group (integer 7)"),
    ("routing", Extension.ROUTING, int(Routing.SUM), "routing (integer 8)"),
)


def problems(genome: BackboneGenome, pool: OptionPool) -> list[str]:
    """Every reason why `genome` is invalid over `pool`; empty where it is valid (paper 4.2, A.6.1).

    Sharing groups of a class are numbered 1 to N, N being how often the class occurs, so a group can only ever connect
    LIVs of one class. Residual and path groups are numbered 1 to the depth. The integers of an identity have no effect.
    """
    counts, choices = Counter(segment.liv for segment in genome), pool.choices
    found: list[str] = []
    for position, segment in enumerate(genome, start=1):
        here: list[str] = []
        if segment.liv not in choices:
            here = [f"class {segment.liv} is not in pool {pool.name!r} ({_lacking(segment, pool)})"]
        elif not segment.is_identity:
            here = [
                *_sharing_problems(segment, pool, counts[segment.liv]),
                *_composition_problems(segment, pool, genome.depth),
            ]
        found += [f"LIV {position} ({segment}): {problem}" for problem in here]
    if set(counts) == {IDENTITY} and not found:
        found.append("all of its LIVs are identities (class 0); at least one must do something")
    return found


def _sharing_problems(segment: Segment, pool: OptionPool, count: int) -> Iterable[str]:
    row = pool[segment.liv]
    for what, group in (
        ("featurizer", segment.featurizer_group),
        ("feature-group", segment.feature_group),
    ):
        if not 1 <= group <= count:
            yield (
                f"{what} sharing group {group} connects to no LIV of its class; {row.name} occurs "
                f"{count} times here, so groups are 1 to {count}"
            )
    if segment.featurizer_strategy not in FEATURIZER_STRATEGIES:
        yield (
            f"featurizer sharing strategy {segment.featurizer_strategy} does not exist; "
            f"1 shares nothing, 2 shares all weights"
        )
    if not 1 <= segment.feature_strategy <= len(row.strategies):
        yield f"feature-group sharing strategy {segment.feature_strategy} does not exist for {row.name}; " + ", ".join(
            f"{key} shares {'+'.join(names) or 'nothing'}" for key, names in enumerate(row.strategies, 1)
        )


def _composition_problems(segment: Segment, pool: OptionPool, depth: int) -> Iterable[str]:
    for field, extension, nothing, what in OPTIONAL:
        value, allowed = getattr(segment, field), optional_values(field, depth)
        if extension not in pool.extensions and value != nothing:
            yield (
                f"{what} is {value}, but pool {pool.name!r} does not have the extension {extension.value!r}; "
                f"extend the pool by it, or write {nothing}"
            )
        elif value not in allowed:
            yield f"{what} is {value}; allowed: {allowed[0]} to {allowed[-1]}"


def optional_values(field: str, depth: int) -> range:
    """The valid values of integer 6, 7 or 8 of a backbone of `depth` segments."""
    return range(1, len(Routing) + 1) if field == "routing" else range(depth + 1)


def require_valid(genome: BackboneGenome, pool: OptionPool) -> None:
    """Raise `StarError` with all problems of an invalid genome."""
    if found := problems(genome, pool):
        raise StarError(f"genome {str(genome)!r} is invalid: {'; '.join(found)}.")


def repair(genome: BackboneGenome, pool: OptionPool, rng: Random) -> BackboneGenome:
    """A valid genome as near as can be (paper 4.2): invalid connections (integers 2 and 4) are removed, that is, given
    a group of their own, and so are residual and path groups (6 and 7); invalid values of integers 1, 3, 5 and 8 are
    sampled anew from the valid choices. What the pool has no extension for is reset, and so is an identity's."""
    choices = pool.choices
    segments = [segment if segment.liv in choices else replace(segment, liv=rng.choice(choices)) for segment in genome]
    if all(segment.is_identity for segment in segments):
        place = rng.randrange(len(segments))
        segments[place] = replace(segments[place], liv=rng.choice(pool.ids))
    featurizer_groups = _valid_groups(segments, [segment.featurizer_group for segment in segments])
    feature_groups = _valid_groups(segments, [segment.feature_group for segment in segments])
    repaired = []
    for segment, featurizer_group, feature_group in zip(segments, featurizer_groups, feature_groups, strict=True):
        if segment.is_identity:
            repaired.append(Segment(IDENTITY))
            continue
        strategies = len(pool[segment.liv].strategies)
        featurizer_strategy, feature_strategy = segment.featurizer_strategy, segment.feature_strategy
        if featurizer_strategy not in FEATURIZER_STRATEGIES:
            featurizer_strategy = rng.choice(FEATURIZER_STRATEGIES)
        if not 1 <= feature_strategy <= strategies:
            feature_strategy = rng.randint(1, strategies)
        sharing = (segment.liv, featurizer_group, featurizer_strategy, feature_group, feature_strategy)
        repaired.append(Segment(*sharing, *_composition(segment, pool, genome.depth, rng)))
    return BackboneGenome(tuple(repaired))


def _composition(segment: Segment, pool: OptionPool, depth: int, rng: Random) -> list[int]:
    """Valid integers 6 to 8."""
    values = []
    for field, extension, nothing, _ in OPTIONAL:
        value, allowed = getattr(segment, field), optional_values(field, depth)
        if extension not in pool.extensions:
            value = nothing
        elif value not in allowed:
            value = rng.choice(allowed) if field == "routing" else nothing
        values.append(value)
    return values


def _valid_groups(segments: list[Segment], groups: list[int]) -> list[int]:
    """`groups` with each number outside 1..N of its class replaced by the smallest one that no LIV of it uses."""
    counts = Counter(segment.liv for segment in segments)
    used: dict[int, set[int]] = {liv: set() for liv in counts}
    for segment, group in zip(segments, groups, strict=True):
        used[segment.liv].add(group)
    valid = []
    for segment, group in zip(segments, groups, strict=True):
        count, taken = counts[segment.liv], used[segment.liv]
        if not 1 <= group <= count:
            group = next(number for number in range(1, count + 1) if number not in taken)
            taken.add(group)
        valid.append(group)
    return valid


def _lacking(segment: Segment, pool: OptionPool) -> str:
    if segment.is_identity:
        return f"class 0 is the identity; extend the pool by {Extension.DEPTH.value!r}"
    return f"it has {ranges(pool.choices)}"
