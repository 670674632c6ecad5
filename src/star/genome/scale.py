"""Scaling a genome in depth (paper 5.1)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from star.errors import StarError
from star.genome.backbone import BackboneGenome


def stack(genome: BackboneGenome, copies: int) -> BackboneGenome:
    """`copies` of a motif on top of each other (paper 5.1). Nothing connects the copies: sharing, residual and path
    groups stay inside each, with numbers of their own. Raises `StarError` for less than one copy."""
    if copies < 1:
        raise StarError(f"a motif is stacked at least once; {copies} copies were asked for.")
    counts = Counter(segment.liv for segment in genome)
    groups = max(max(segment.residual_group, segment.path_group) for segment in genome)
    return BackboneGenome(
        tuple(
            replace(
                segment,
                featurizer_group=segment.featurizer_group + copy * counts[segment.liv],
                feature_group=segment.feature_group + copy * counts[segment.liv],
                residual_group=segment.residual_group and segment.residual_group + copy * groups,
                path_group=segment.path_group and segment.path_group + copy * groups,
            )
            for copy in range(copies)
            for segment in genome
        )
    )
