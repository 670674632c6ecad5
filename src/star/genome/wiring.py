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

    def drop(self) -> None:
        """Take the last LIV away again."""
        self.segments.pop()
        self._taken.pop()
        self._owners.pop()
        known: tuple[dict, ...] = (self._featurizer_sources, self._feature_sources, self._first_owners)
        for sources in known:
            for key in [key for key, source in sources.items() if source == len(self.segments)]:
                del sources[key]

    def matches(self, liv: int, row: Row) -> Iterator[Segment]:
        """All segments by which the next LIV gets `row`, with groups numbered in order of appearance. In a fixed order:
        feature groups taken before featurizer sharing, nothing before something, earlier groups before later ones."""
        featurizers = self._featurizer_choices(liv, row)
        for feature_group, feature_strategy in self._feature_choices(liv, row):
            for group, strategy in featurizers:
                segment = Segment(liv, group, strategy, feature_group, feature_strategy)
                if self.resolve(segment) == row:
                    yield segment

    def _feature_choices(self, liv: int, row: Row) -> list[tuple[int, int]]:
        """Groups and strategies that take what `row` takes."""
        taken, groups = row[0], self.pool[liv].groups
        sources = {group: index for (known, group), index in self._feature_sources.items() if known == liv}
        strategies = [
            number
            for number, names in enumerate(self.pool[liv].strategies, start=1)
            if names and {name for name in names if groups[name].from_input} == set(taken)
        ]
        return [(len(sources) + 1, 1)] * (not taken) + [
            (group, strategy)
            for group, index in sorted(sources.items())
            if not taken or index in taken.values()
            for strategy in strategies
        ]

    def _featurizer_choices(self, liv: int, row: Row) -> list[tuple[int, int]]:
        """Groups and strategies that may give the weights of `row`: those of an owner's group, where it has another;
        otherwise a new group, or one that has no weights for what is computed."""
        groups, index = self.pool[liv].groups, len(self.segments)
        owners = {name: owner for name, owner in row[1].items() if groups[name].from_input}
        if foreign := {owner for owner in owners.values() if owner < index}:
            return [(group, 2) for group in sorted({self.segments[owner].featurizer_group for owner in foreign})]
        known = sum(other == liv for other, _ in self._featurizer_sources)
        joined = (
            group
            for group in range(1, known + 1)
            if not any((liv, group, name) in self._first_owners for name in owners)
        )
        return [(known + 1, 1), *((group, 2) for group in joined)]
