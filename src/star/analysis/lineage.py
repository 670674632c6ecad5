"""Where a candidate comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from star.errors import StarError
from star.genome import BackboneGenome
from star.synthesis.candidate import Candidate


@dataclass(frozen=True)
class Ancestor:
    """A candidate in a lineage, and in how many LIVs it differs from each of its parents."""

    candidate: Candidate
    changed: dict[str, int]


def lineage(candidates: Sequence[Candidate], name: str) -> list[Ancestor]:
    """The candidate called ``name`` and everything that it was bred from, the youngest first, each once.

    Raises StarError where there is no such candidate.
    """
    by_name = {candidate.name: candidate for candidate in candidates}
    if name not in by_name:
        raise StarError(f"{name!r} is no candidate of this run; it has 1 to {len(candidates)}")
    found: dict[str, Candidate] = {}
    left = [name]
    while left:
        candidate = by_name[left.pop()]
        if candidate.name not in found:
            found[candidate.name] = candidate
            left += candidate.parents
    youngest_first = sorted(found.values(), key=lambda candidate: (-candidate.generation, int(candidate.name)))
    return [
        Ancestor(candidate, {parent: _changed(candidate, by_name[parent]) for parent in candidate.parents})
        for candidate in youngest_first
    ]


def _changed(candidate: Candidate, parent: Candidate) -> int:
    """LIVs that differ in any integer of the genomes as they were evolved."""
    own, other = BackboneGenome.parse(candidate.genome), BackboneGenome.parse(parent.genome)
    return sum(one != two for one, two in zip(own, other, strict=True))
