"""What the arrows in the drawing of a backbone stand for: shared weights, shared features, residual links."""

from __future__ import annotations

from dataclasses import dataclass

from star.genome import BackboneGenome, OptionPool, stages, wiring


@dataclass(frozen=True)
class Arrow:
    """LIV `target` uses `groups` of LIV `source`: their weights (featurizer sharing), or the tensors themselves."""

    source: int
    target: int
    groups: tuple[str, ...]
    weights: bool

    @property
    def side(self) -> int:
        """Where the arrow is drawn: weights on the right (1), features on the left (-1)."""
        return 1 if self.weights else -1


@dataclass(frozen=True)
class Link:
    """The output of stage `source` joins the input of stage `target` (paper A.7)."""

    source: int
    target: int


def arrows(genome: BackboneGenome, pool: OptionPool) -> list[Arrow]:
    """Everything that is shared in a valid genome, one arrow for each pair and kind."""
    wires = wiring(genome, pool)
    found: dict[tuple[int, int, bool], list[str]] = {}
    for index, (owners, taken) in enumerate(zip(wires.owners, wires.taken, strict=True)):
        for name, owner in owners.items():
            if owner != index:
                found.setdefault((owner, index, True), []).append(name)
        for name, source in taken.items():
            found.setdefault((source, index, False), []).append(name)
    return [Arrow(source, target, tuple(groups), weights) for (source, target, weights), groups in found.items()]


def links(genome: BackboneGenome) -> list[Link]:
    """The residual links of a valid genome, by target."""
    return [Link(stage.source, index) for index, stage in enumerate(stages(genome)) if stage.source is not None]
