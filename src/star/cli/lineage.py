"""`star lineage`: where a candidate comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from star.cli import options
from star.cli.console import print_json, print_table
from star.errors import StarError


def run(
    target: Annotated[str, typer.Argument(metavar="RUN:CANDIDATE", help="A candidate of a run, such as runs/demo:12.")],
    as_json: options.AsJson = False,
) -> None:
    """List a candidate and everything that it was bred from, the youngest first.

    Beside each parent stands in how many LIVs the child differs from it. Where weights are inherited: the tokens that
    each was trained on, and the most that lie behind any of its weights.
    """
    from star.analysis import lineage
    from star.cli.inspect import candidate_facts
    from star.cli.watch import summary
    from star.synthesis import Run, Status

    path, _, name = target.rpartition(":")
    if not path:
        raise StarError(f"{target!r} names no candidate; write RUN:CANDIDATE, such as {target}:1")
    with Run.open(Path(path)) as opened:
        found = lineage(opened.candidates, name)
    if as_json:
        print_json([{**candidate_facts(each.candidate), "changed": each.changed} for each in found])
        return
    inherits = any(each.candidate.inherited_tokens for each in found)
    rows = [
        (
            each.candidate.name,
            str(each.candidate.generation),
            ", ".join(f"{parent} ({count} LIVs)" for parent, count in each.changed.items()) or "random",
            *([f"{each.candidate.tokens:,}", f"{each.candidate.lineage_tokens:,}"] if inherits else []),
            "not trained yet" if each.candidate.status is Status.PENDING else summary(each.candidate),
        )
        for each in found
    ]
    tokens = [">tokens", ">with inheritance"] if inherits else []
    heads = [">#", ">generation", "parents (changed)", *tokens, "<result"]
    print_table(heads, rows, title=f"Lineage of candidate {name}")
