"""How the LIVs of a backbone follow each other: in stages of one LIV or of parallel paths, with residual links."""

from __future__ import annotations

from dataclasses import dataclass

from star.genome.backbone import BackboneGenome, Segment
from star.genome.extension import Routing


@dataclass(frozen=True)
class Stage:
    """LIVs that read one input: u = y^{n-1}, plus the output of an earlier stage where a residual group says so (paper
    A.7). The stage's output is y^n = u + Σ_p w_p T_p(norm(u)) norm(u), with the w_p of its routing.

    livs: their indices in the genome. source: the index of that earlier stage.
    """

    livs: tuple[int, ...]
    source: int | None = None
    routing: Routing = Routing.SUM


def stages(genome: BackboneGenome) -> tuple[Stage, ...]:
    """The stages of a valid genome; identities are passed over.

    LIVs next to each other with the same path group, not 0, are the paths of one stage; its residual group and its
    routing are those of its first LIV. The first stage of a residual group is the source of all later ones.
    """
    found: list[Stage] = []
    sources: dict[int, int] = {}
    for members in runs(genome):
        first = genome.segments[members[0]]
        group = first.residual_group
        source = sources.setdefault(group, len(found)) if group else len(found)
        routing = Routing(first.routing) if len(members) > 1 else Routing.SUM
        found.append(Stage(members, source if source != len(found) else None, routing))
    return tuple(found)


def runs(genome: BackboneGenome) -> list[tuple[int, ...]]:
    """The indices of each stage's LIVs."""
    found: list[list[int]] = []
    before: Segment | None = None
    for index, segment in enumerate(genome):
        if segment.is_identity:
            continue
        if before is not None and segment.path_group and segment.path_group == before.path_group:
            found[-1].append(index)
        else:
            found.append([index])
        before = segment
    return [tuple(members) for members in found]
