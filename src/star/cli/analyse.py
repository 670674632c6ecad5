"""`star analyse`: what the populations of a run are made of, and which motifs selection favours."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from star.cli import options
from star.cli.console import NOTHING, print_json, print_table, say

if TYPE_CHECKING:
    from star.synthesis import Run

SHOWN = 20  # motifs in the table


def run(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    as_json: options.AsJson = False,
) -> None:
    """Count LIV classes and sharing by generation, and find motifs of the front that the first generation had less of.

    All figures are means over the backbones of a population; a distance is the number of LIVs between two that share.
    """
    from star.synthesis import Run

    with Run.open(run) as opened:
        found = analysis_facts(opened)
    if as_json:
        print_json(found)
    else:
        _show(found)


def analysis_facts(run: Run) -> dict[str, Any]:
    """The JSON form. Motifs are those of the last front against the first generation, failed candidates included."""
    from star.analysis import composition, enriched_motifs
    from star.genome import BackboneGenome

    pool = run.pool
    populations = [run.population(generation) for generation in range(1, run.generations + 1)]
    genomes = [[BackboneGenome.parse(each.canonical) for each in population] for population in populations]
    first = [BackboneGenome.parse(each.canonical) for each in run.candidates if each.generation == 1]
    front = [BackboneGenome.parse(each.canonical) for each in run.front]
    return {
        "generations": [
            {"generation": number, **asdict(composition(population, pool))}
            for number, population in enumerate(genomes, start=1)
        ],
        "front": len(front),
        "motifs": [asdict(motif) for motif in enriched_motifs(front, first, pool)],
    }


def _show(found: dict[str, Any]) -> None:
    generations = found["generations"]
    if not generations:
        say("no generation has ended yet")
        return
    names = list(dict.fromkeys(name for row in generations for name in row["classes"]))
    numbers = [f">{row['generation']}" for row in generations]
    rows = [[name, *(f"{row['classes'].get(name, 0):.2f}" for row in generations)] for name in names]
    print_table(["class", *numbers], rows, title="LIVs of each class in a backbone, by generation")
    say("")
    rows = []
    for kind in generations[0]["connections"]:
        rows.append([f"pairs that share {kind}", *(f"{row['connections'][kind]:.2f}" for row in generations)])
        distances = [row["distances"][kind] for row in generations]
        rows.append(["  their distance", *(NOTHING if each is None else f"{each:.2f}" for each in distances)])
    print_table(["sharing", *numbers], rows, title="Sharing in a backbone, by generation")
    say("")
    rows = [
        [
            " ".join(motif["classes"]),
            f"{100 * motif['selected']:.0f} %",
            f"{100 * motif['initial']:.0f} %",
            f"{motif['enrichment']:.1f}",
            f"{motif['p']:.2g}",
            f"{motif['q']:.2g}",
        ]
        for motif in found["motifs"][:SHOWN]
    ]
    title = f"Motifs of the {found['front']} backbones on the front, against the first generation"
    print_table(["<motif", ">front", ">first", ">enriched", ">p", ">q"], rows, title=title)
