"""`star compare`: the front of a run beside the baselines, trained alike."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from star.cli import options
from star.cli.console import INTERRUPTED_STATUS, print_json, print_table, say

if TYPE_CHECKING:
    from star.report.comparison import Comparison
    from star.synthesis import Candidate


def run(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    workers: Annotated[int | None, typer.Option(min=1, help="Baselines trained at once.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Set the front beside Transformer++ and StripedMamba, trained on the same tokens with the same settings.

    Baselines that the run lacks are trained first, and kept in it; a search that trains nothing trains no baseline.
    """
    from star.cli.progress import search_progress
    from star.report.comparison import comparison
    from star.synthesis import Run, compare
    from star.synthesis.run import require_front

    with Run.open(run) as opened:
        require_front(opened)  # before an hour of training, not after it
    try:
        with search_progress("baselines") as listener:
            compared = compare(run, workers=workers, listener=listener)
    except KeyboardInterrupt:
        say(f"Interrupted; no result is lost: `star compare {shlex.quote(str(run))}` continues.", err=True)
        raise typer.Exit(INTERRUPTED_STATUS) from None
    with compared:
        found = comparison(compared)
    if as_json:
        print_json(comparison_facts(found))
    else:
        show(found)


def show(found: Comparison) -> None:
    """Tables of sizes and differences, and a sentence for each baseline."""
    from star.cli.tables import candidate_table
    from star.report.comparison import difference, inheritance_note, percent, sentence

    training = found.recipe.training
    title = "The baselines, and the front"
    if found.recipe.needs_training:
        who = "each" if found.recipe.inheritance is None else "the baselines"
        title += f", {who} trained on {training.steps * training.step_tokens:,} tokens"
    candidate_table([*found.baselines, *found.front], found.recipe, title=title)
    say("")
    head = [">#"]
    for baseline in found.baselines:
        head += [f">{baseline.name}\nperplexity", ">\nparameters", ">\ncache"]
    rows = []
    for candidate in found.front:
        cells = [candidate.name]
        for baseline in found.baselines:
            change = difference(candidate, baseline)
            cells += [percent(value) for value in (change.perplexity, change.parameters, change.cache_bytes)]
        rows.append(cells)
    print_table(head, rows, title="The front relative to each baseline, in %")
    say("")
    for verdict in found.verdicts:
        say(sentence(verdict, found.recipe))
    if note := inheritance_note(found.front, found.recipe):
        say(note)


def comparison_facts(found: Comparison) -> dict[str, Any]:
    """The JSON form."""
    from star.cli.inspect import candidate_facts
    from star.report.comparison import difference, inheritance_note, sentence

    def facts(candidate: Candidate) -> dict[str, Any]:
        return {**candidate_facts(candidate), "perplexity": candidate.perplexity}

    return {
        "tokens": found.recipe.training.steps * found.recipe.training.step_tokens,
        "cache_length": found.recipe.cache_length,
        "objectives": list(found.recipe.search.objectives),
        "inheritance": inheritance_note(found.front, found.recipe),
        "baselines": [facts(baseline) for baseline in found.baselines],
        "candidates": [
            {
                **facts(candidate),
                "difference": {baseline.name: asdict(difference(candidate, baseline)) for baseline in found.baselines},
            }
            for candidate in found.front
        ],
        "verdicts": [
            {
                "baseline": verdict.baseline.name,
                "beaten": bool(verdict.dominating),
                "dominating": [candidate.name for candidate in verdict.dominating],
                "sentence": sentence(verdict, found.recipe),
            }
            for verdict in found.verdicts
        ],
    }
