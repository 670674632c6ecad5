"""What the backbones of a population are made of: classes, sharing, and the distance over which it goes (paper 5.5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from star.genome import BackboneGenome, OptionPool, wiring


class Sharing(StrEnum):
    """What two LIVs have in common."""

    WEIGHTS = "weights"  # featurizer sharing
    FEATURES = "features"  # feature-group sharing


@dataclass(frozen=True)
class Connection:
    """A LIV uses what belongs to an earlier one; LIVs count from 0."""

    sharing: Sharing
    source: int
    target: int
    groups: tuple[str, ...]

    @property
    def distance(self) -> int:
        """Other LIVs between the two."""
        return self.target - self.source - 1


@dataclass(frozen=True)
class Composition:
    """Means over the backbones of a population."""

    classes: dict[str, float]
    """LIVs of each class, by name; classes that do not occur are left out."""
    connections: dict[str, float]
    """Pairs of LIVs that share weights, and features."""
    distances: dict[str, float | None]
    """Other LIVs between the two of a pair; None without a pair."""


def connections(genome: BackboneGenome, pool: OptionPool) -> list[Connection]:
    """Every pair of LIVs that shares something, once for weights and once for features."""
    wires = wiring(genome, pool)
    found = []
    for sharing, rows in ((Sharing.WEIGHTS, wires.owners), (Sharing.FEATURES, wires.taken)):
        for target, row in enumerate(rows):
            by_source: dict[int, list[str]] = {}
            for name, source in row.items():
                if source != target:
                    by_source.setdefault(source, []).append(name)
            found += [Connection(sharing, source, target, tuple(names)) for source, names in sorted(by_source.items())]
    return found


def composition(genomes: Sequence[BackboneGenome], pool: OptionPool) -> Composition:
    """The means over ``genomes``."""
    count = max(1, len(genomes))
    livs = Counter(segment.liv for genome in genomes for segment in genome if segment.liv in pool)
    found = [connection for genome in genomes for connection in connections(genome, pool)]
    distances = {kind: [each.distance for each in found if each.sharing is kind] for kind in Sharing}
    return Composition(
        classes={pool[liv].name: livs[liv] / count for liv in sorted(livs)},
        connections={kind.value: len(distances[kind]) / count for kind in Sharing},
        distances={
            kind.value: sum(distances[kind]) / len(distances[kind]) if distances[kind] else None for kind in Sharing
        },
    )
