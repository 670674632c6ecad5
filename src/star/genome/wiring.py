"""Who shares what with whom: a backbone genome resolved into owners, and back into its canonical form.

A feature group of LIV i is either *taken* from an earlier LIV (feature-group sharing) or *computed* by i, with weights
that belong to some LIV (featurizer sharing; itself where nothing is shared). A group that does not depend on the input
(a convolution kernel) is its weights, so sharing it either way is the same network: it is always recorded by owner.
"""

from __future__ import annotations

from dataclasses import dataclass

from star.genome.backbone import BackboneGenome, Segment
from star.genome.pool import OptionPool


@dataclass(frozen=True)
class Wiring:
    """For each LIV i: `taken[i]` group → LIV whose tensor is used; `owners[i]` group → LIV that owns the weights."""

    taken: tuple[dict[str, int], ...]
    owners: tuple[dict[str, int], ...]


def wiring(genome: BackboneGenome, pool: OptionPool) -> Wiring:
    """Resolve all sharing of a valid genome; weights belong to the first LIV of a sharing group that needs them."""
    featurizer_source: dict[tuple[int, int], int] = {}
    feature_source: dict[tuple[int, int], int] = {}
    first_owner: dict[tuple[int, int, str], int] = {}
    taken: list[dict[str, int]] = []
    owners: list[dict[str, int]] = []
    for index, segment in enumerate(genome):
        row = pool[segment.liv]
        groups = row.groups
        key = (segment.liv, segment.featurizer_group)
        source = featurizer_source.setdefault(key, index)
        feature_from = feature_source.setdefault((segment.liv, segment.feature_group), index)
        shared = row.strategies[segment.feature_strategy - 1] if feature_from != index else ()
        shares_weights = source == index or segment.featurizer_strategy == 2
        takes: dict[str, int] = {}
        owns: dict[str, int] = {}
        for name, group in groups.items():
            if not group.from_input:
                if name in shared:
                    owns[name] = owners[feature_from][name]
                else:
                    owns[name] = owners[source][name] if shares_weights and source != index else index
            elif name in shared:
                takes[name] = feature_from
            else:
                owns[name] = first_owner.setdefault((*key, name), index) if shares_weights else index
        taken.append(takes)
        owners.append(owns)
    return Wiring(tuple(taken), tuple(owners))


def canonical_genome(genome: BackboneGenome, wires: Wiring, pool: OptionPool) -> BackboneGenome:
    """The canonical genome of a wiring; a function of the LIV classes and `wires` alone."""
    featurizer_labels = _Labels()
    feature_labels = _Labels()
    attached: set[int] = set()  # LIVs that take a feature group from another one
    root: list[int] = []  # first LIV with which each LIV shares featurizer weights
    segments = []
    for index, segment in enumerate(genome):
        groups = pool[segment.liv].groups
        takes, owns = wires.taken[index], wires.owners[index]
        shares = sorted({owner for name, owner in owns.items() if groups[name].from_input and owner != index})
        root.append(root[shares[0]] if shares else index)
        implied = wires.owners[root[index]] if shares else {}
        kernels = tuple(
            name for name, group in groups.items() if not group.from_input and owns[name] != implied.get(name, index)
        )
        names = tuple(name for name in groups if name in takes or name in kernels)
        if not names:
            source = index
        elif takes:
            source = next(iter(takes.values()))
        else:
            source = next(
                other
                for other in range(index)
                if genome.segments[other].liv == segment.liv
                and other not in attached
                and all(wires.owners[other][name] == owns[name] for name in kernels)
            )
        if names:
            attached.add(index)
        optional = {
            name for name, group in groups.items() if not group.from_input and wires.owners[source][name] == owns[name]
        }
        segments.append(
            Segment(
                segment.liv,
                featurizer_labels(segment.liv, root[index]),
                2 if shares else 1,
                feature_labels(segment.liv, source),
                1 + _strategy(pool[segment.liv].strategies, set(names), optional),
            )
        )
    return BackboneGenome(tuple(segments))


class _Labels:
    """Numbers 1, 2, … for the roots of each class, in order of appearance."""

    def __init__(self) -> None:
        self._numbers: dict[int, dict[int, int]] = {}

    def __call__(self, liv: int, root: int) -> int:
        numbers = self._numbers.setdefault(liv, {})
        return numbers.setdefault(root, len(numbers) + 1)


def _strategy(strategies: tuple[tuple[str, ...], ...], names: set[str], optional: set[str]) -> int:
    """First strategy that takes `names` and, beyond them, at most kernels that are the source's anyway."""
    return next(index for index, strategy in enumerate(strategies) if names <= set(strategy) <= names | optional)
