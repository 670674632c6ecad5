"""Motifs: classes that follow each other more often where selection has worked than where it has not (paper B.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

from star.genome import BackboneGenome, OptionPool

SHORTEST, LONGEST = 2, 4  # LIVs of a motif


@dataclass(frozen=True)
class Motif:
    """Classes in a row. ``selected`` and ``initial`` are the shares of backbones that have them somewhere."""

    classes: tuple[str, ...]
    selected: float
    initial: float
    enrichment: float
    """Ratio of the two shares, half a backbone added to each count, so that it is finite."""
    p: float
    """Fisher's exact test, one-sided: how likely at least so many of the selected have it, if selection did nothing."""
    q: float
    """p after the correction of Benjamini and Hochberg for all motifs that were looked at."""


def enriched_motifs(
    selected: Sequence[BackboneGenome], initial: Sequence[BackboneGenome], pool: OptionPool, *, least: int = 2
) -> list[Motif]:
    """The motifs of 2 to 4 LIVs that at least ``least`` of the ``selected`` have, the least likely by chance first.

    Backbones are counted and not places: one that repeats a motif counts once. Identities are left out.
    """
    if not selected or not initial:
        return []
    there, before = [_motifs(genome) for genome in selected], [_motifs(genome) for genome in initial]
    counted = []
    for motif in sorted(set().union(*there)):
        with_it, without_selection = sum(motif in each for each in there), sum(motif in each for each in before)
        if with_it >= least:
            p = fisher(with_it, len(there), without_selection, len(before))
            counted.append((p, motif, with_it, without_selection))
    counted.sort()
    corrected: list[float] = []
    for place in range(len(counted) - 1, -1, -1):
        value = counted[place][0] * len(counted) / (place + 1)
        corrected.append(min(value, corrected[-1] if corrected else 1.0))
    n, m = len(there), len(before)
    return [
        Motif(
            classes=tuple(pool[liv].name for liv in motif),
            selected=one / n,
            initial=two / m,
            enrichment=((one + 0.5) / (n + 1)) / ((two + 0.5) / (m + 1)),
            p=p,
            q=q,
        )
        for (p, motif, one, two), q in zip(counted, reversed(corrected), strict=True)
    ]


def fisher(first: int, of_first: int, second: int, of_second: int) -> float:
    """Chance of at least ``first`` hits among ``of_first``, if ``first + second`` hits fell on all alike."""
    hits, everyone = first + second, of_first + of_second
    ways = sum(comb(hits, k) * comb(everyone - hits, of_first - k) for k in range(first, min(hits, of_first) + 1))
    return ways / comb(everyone, of_first)


def _motifs(genome: BackboneGenome) -> set[tuple[int, ...]]:
    livs = [segment.liv for segment in genome if not segment.is_identity]
    return {
        tuple(livs[start : start + size])
        for size in range(SHORTEST, LONGEST + 1)
        for start in range(len(livs) - size + 1)
    }
