"""Who shares what with whom: a backbone genome resolved into owners.

A feature group of LIV i is either *taken* from an earlier LIV (feature-group sharing) or *computed* by i, with weights
that belong to some LIV (featurizer sharing; itself where nothing is shared). A group that does not depend on the input
(a kernel, a constant) is its weights, so sharing it either way is the same network: it is always recorded by owner.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from star.genome.backbone import BackboneGenome, Segment
from star.genome.pool import OptionPool

#: Of one LIV: group → LIV whose tensor is used, group → LIV that owns the weights.
Row = tuple[dict[str, int], dict[str, int]]


@dataclass(frozen=True)
class Wiring:
    """For each LIV i: `taken[i]` group → LIV whose tensor is used; `owners[i]` group → LIV that owns the weights."""

    taken: tuple[dict[str, int], ...]
    owners: tuple[dict[str, int], ...]


def wiring(genome: BackboneGenome, pool: OptionPool) -> Wiring:
    """Resolve all sharing of a valid genome: weights belong to the first LIV of a sharing group that needs them, and an
    identity has none."""
    resolver = Resolver(pool)
    for segment in genome:
        resolver.add(segment)
    return resolver.wiring


class Resolver:
    """Wires a backbone up, segment by segment."""

    def __init__(self, pool: OptionPool) -> None:
        self.pool = pool
        self.segments: list[Segment] = []
        self._taken: list[dict[str, int]] = []
        self._owners: list[dict[str, int]] = []
        self._featurizer_sources: dict[tuple[int, int], int] = {}
        self._feature_sources: dict[tuple[int, int], int] = {}
        self._first_owners: dict[tuple[int, int, str], int] = {}

    @property
    def wiring(self) -> Wiring:
        return Wiring(tuple(self._taken), tuple(self._owners))

    def resolve(self, segment: Segment) -> Row:
        """What the next LIV would take, and who would own the weights of what it computes."""
        if segment.is_identity:
            return {}, {}
        index, row = len(self.segments), self.pool[segment.liv]
        key = (segment.liv, segment.featurizer_group)
        source = self._featurizer_sources.get(key, index)
        feature_source = self._feature_sources.get((segment.liv, segment.feature_group), index)
        shared = row.strategies[segment.feature_strategy - 1] if feature_source != index else ()
        shares_weights = source != index and segment.featurizer_strategy == 2
        taken: dict[str, int] = {}
        owners: dict[str, int] = {}
        for name, group in row.groups.items():
            if name in shared and group.from_input:
                taken[name] = feature_source
            elif name in shared:
                owners[name] = self._owners[feature_source][name]
            elif not shares_weights:
                owners[name] = index
            elif group.from_input:
                owners[name] = self._first_owners.get((*key, name), index)
            else:
                owners[name] = self._owners[source][name]
        return taken, owners

    def add(self, segment: Segment) -> None:
        """Append the next LIV."""
        index = len(self.segments)
        taken, owners = self.resolve(segment)
        self.segments.append(segment)
        self._taken.append(taken)
        self._owners.append(owners)
        if segment.is_identity:
            return
        key = (segment.liv, segment.featurizer_group)
        if self._featurizer_sources.setdefault(key, index) == index or segment.featurizer_strategy == 2:
            for name in owners:
                self._first_owners.setdefault((*key, name), index)
        self._feature_sources.setdefault((segment.liv, segment.feature_group), index)

    def choices(self, liv: int) -> Iterator[Segment]:
        """All segments that the next LIV can have, with groups numbered in order of appearance."""
        featurizers = sum(known == liv for known, _ in self._featurizer_sources)
        features = sum(known == liv for known, _ in self._feature_sources)
        strategies = range(2, len(self.pool[liv].strategies) + 1)
        shared = [(group, strategy) for group in range(1, features + 1) for strategy in strategies]
        for feature_group, feature_strategy in [(features + 1, 1), *shared]:
            for group, strategy in [(featurizers + 1, 1), *((known, 2) for known in range(1, featurizers + 1))]:
                yield Segment(liv, group, strategy, feature_group, feature_strategy)
