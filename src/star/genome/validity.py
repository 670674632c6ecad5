"""Which backbone genomes are valid over a pool, with every reason spelled out, and the repair of paper 4.2."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

from star.errors import StarError
from star.genome.backbone import BackboneGenome, Segment
from star.genome.pool import OptionPool

FEATURIZER_STRATEGIES = (1, 2)  # A.6.1: no weights are shared, all weights are shared


def problems(genome: BackboneGenome, pool: OptionPool) -> list[str]:
    """Every reason why `genome` is invalid over `pool`; empty where it is valid (paper 4.2, A.6.1).

    Sharing groups of a class are numbered 1 to N, N being how often the class occurs, so a group can only ever connect
    LIVs of one class.
    """
    counts = Counter(segment.liv for segment in genome)
    found = []
    for position, segment in enumerate(genome, start=1):
        where = f"LIV {position} ({segment})"
        if segment.liv not in pool:
            found.append(f"{where}: class {segment.liv} is not in pool {pool.name!r} ({_listing(pool.ids)})")
            continue
        row, count = pool[segment.liv], counts[segment.liv]
        for what, group in (
            ("featurizer", segment.featurizer_group),
            ("feature-group", segment.feature_group),
        ):
            if not 1 <= group <= count:
                found.append(
                    f"{where}: {what} sharing group {group} connects to no LIV of its class; {row.name} occurs "
                    f"{count} times here, so groups are 1 to {count}"
                )
        if segment.featurizer_strategy not in FEATURIZER_STRATEGIES:
            found.append(
                f"{where}: featurizer sharing strategy {segment.featurizer_strategy} does not exist; "
                f"1 shares nothing, 2 shares all weights"
            )
        if not 1 <= segment.feature_strategy <= len(row.strategies):
            found.append(
                f"{where}: feature-group sharing strategy {segment.feature_strategy} does not exist for {row.name}; "
                + ", ".join(
                    f"{key} shares {'+'.join(names) or 'nothing'}" for key, names in enumerate(row.strategies, 1)
                )
            )
    return found


def require_valid(genome: BackboneGenome, pool: OptionPool) -> None:
    """Raise `StarError` with all problems of an invalid genome."""
    if found := problems(genome, pool):
        raise StarError(f"genome {str(genome)!r} is invalid: {'; '.join(found)}.")


def repair(genome: BackboneGenome, pool: OptionPool, rng: Random) -> BackboneGenome:
    """A valid genome as near as can be (paper 4.2): invalid connections (integers 2 and 4) are removed, that is, given
    a group of their own; invalid values of integers 1, 3 and 5 are sampled anew from the valid choices."""
    ids = pool.ids
    segments = [segment if segment.liv in pool else replace(segment, liv=rng.choice(ids)) for segment in genome]
    featurizer_groups = _valid_groups(segments, [segment.featurizer_group for segment in segments])
    feature_groups = _valid_groups(segments, [segment.feature_group for segment in segments])
    repaired = []
    for segment, featurizer_group, feature_group in zip(segments, featurizer_groups, feature_groups, strict=True):
        choices = len(pool[segment.liv].strategies)
        featurizer_strategy, feature_strategy = segment.featurizer_strategy, segment.feature_strategy
        if featurizer_strategy not in FEATURIZER_STRATEGIES:
            featurizer_strategy = rng.choice(FEATURIZER_STRATEGIES)
        if not 1 <= feature_strategy <= choices:
            feature_strategy = rng.randint(1, choices)
        repaired.append(Segment(segment.liv, featurizer_group, featurizer_strategy, feature_group, feature_strategy))
    return BackboneGenome(tuple(repaired))


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


def _listing(ids: tuple[int, ...]) -> str:
    return f"it has {', '.join(map(str, ids))}"
