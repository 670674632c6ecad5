"""An architecture and its cost as a table and as JSON, with how its LIVs are composed where they do not just follow
each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from star.cli.console import print_table, say

if TYPE_CHECKING:
    from star.cli.targets import ArchitectureTarget
    from star.genome import BackboneGenome, OptionPool, Stage
    from star.lm import Cost

WIDTH, LENGTH = 768, 4096  # the paper's 125M scale


def composition(genome: BackboneGenome) -> tuple[Stage, ...]:
    """The stages of a genome, by the indices of its LIVs; identities do not count."""
    from star.genome import stages

    return stages(genome.without_identities())


def derived_classes(genome: BackboneGenome) -> list[int]:
    """The classes of a genome that a search has derived, ascending."""
    from star.genome.extension import FIRST_DERIVED

    return sorted({segment.liv for segment in genome if segment.liv >= FIRST_DERIVED})


def show(target: ArchitectureTarget, cost: Cost) -> None:
    """Genome, a row for each LIV, and the totals."""
    genome, canonical = str(target.genome), str(target.genome.canonical(target.pool))
    say(f"genome {genome}")
    if canonical != genome:
        say(f"canonical {canonical}")
    found = composition(target.genome)
    composed = any(len(stage.livs) > 1 or stage.source is not None for stage in found)
    identities = target.genome.depth - len(cost.rows)
    left_out = f" and {identities} identit{'y' if identities == 1 else 'ies'}" if identities else ""
    say(
        f"{len(cost.rows)} LIVs{left_out} of pool {target.pool.name}, width {cost.width}, "
        f"cache at {cost.length:,} tokens"
    )
    if target.pool.extensions:
        say(f"extensions {', '.join(target.pool.extensions)}")
    for liv in derived_classes(target.genome):
        derived = target.pool[liv]
        say(f"class {liv} is {derived.name}: operator {derived.operator}, featurizer {derived.featurizer}")
    say("")
    head = [">LIV", ">class", "name", ">parameters", ">cache bytes", "<sharing"]
    rows = [
        [str(row.index), str(row.liv), row.name, f"{row.parameters:,}", f"{row.cache_bytes:,}", row.sharing]
        for row in cost.rows
    ]
    if composed:
        head[1:1] = [">stage"]
        for number, stage in enumerate(found):
            for index in stage.livs:
                row = rows[index]
                row[-1] = "; ".join(filter(None, [row[-1], *_remarks(stage, index)]))
                row[1:1] = [str(number)]
    print_table(head, rows)
    say("")
    say(f"parameters   {cost.parameters:>15,}  (without embeddings, with the final norm)")
    say(f"cache_bytes  {cost.cache_bytes:>15,}")


def _remarks(stage: Stage, index: int) -> list[str]:
    """How LIV `index` of a stage is composed, in words; what the stage as a whole does stands at its first LIV."""
    others = [str(other) for other in stage.livs if other != index]
    remarks = [f"beside LIV {', '.join(others)}"] if others else []
    if index == stage.livs[0]:
        if stage.source is not None:
            remarks.append(f"+ output of stage {stage.source}")
        if stage.routing.name != "SUM":
            remarks.append(f"{stage.routing.name.lower()} routing")
    return remarks


def facts(genome: BackboneGenome, pool: OptionPool, cost: Cost) -> dict[str, Any]:
    """The JSON form. LIVs and stages count from 0, and identities are no LIVs; `depth` counts segments."""
    return {
        "genome": str(genome),
        "canonical": str(genome.canonical(pool)),
        "pool": pool.name,
        "extensions": list(pool.extensions),
        "depth": genome.depth,
        "width": cost.width,
        "length": cost.length,
        "livs": [
            {
                "index": row.index,
                "class": row.liv,
                "name": row.name,
                "sharing": row.sharing,
                "parameters": row.parameters,
                "cache_bytes": row.cache_bytes,
            }
            for row in cost.rows
        ],
        "stages": [
            {"livs": list(stage.livs), "source": stage.source, "routing": stage.routing.name.lower()}
            for stage in composition(genome)
        ],
        "derived": [pool[liv].to_dict() for liv in derived_classes(genome)],
        "parameters": cost.parameters,
        "cache_bytes": cost.cache_bytes,
    }
