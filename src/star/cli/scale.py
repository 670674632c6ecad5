"""`star scale`: an architecture at another depth and width (paper 5.1), beside the original."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from star.cli import options
from star.cli.architecture import LENGTH, WIDTH, facts
from star.cli.console import print_json, print_table, say
from star.errors import StarError

if TYPE_CHECKING:
    from star.cli.targets import ArchitectureTarget


def run(
    target: Annotated[
        str,
        typer.Argument(metavar="GENOME|PRESET|RUN:CANDIDATE", help=f"{options.GENOME}, or a candidate of a run."),
    ],
    stack: Annotated[
        int, typer.Option(help="Copies on top of each other; sharing, residual and path groups stay inside each.")
    ] = 1,
    width: Annotated[int | None, typer.Option(help="Channels; default: as before.")] = None,
    from_width: Annotated[
        int | None, typer.Option(help="Channels before; default 768, for a candidate its run's.")
    ] = None,
    depth: Annotated[int | None, typer.Option(help="LIVs of a preset; default 24.")] = None,
    length: Annotated[
        int | None, typer.Option(help="Tokens in the cache; default 4096, for a candidate its run's.")
    ] = None,
    pool: options.GenomePool = None,
    extend: options.GenomeExtend = None,
    write_pool: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the LIV classes as TOML, for `star train --pool FILE`."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Scale an architecture: stack copies of it, widen it, or both.

    Shows parameters and cache before and after, and the command that trains the scaled one. Nothing is trained.
    """
    from star.cli.targets import resolve_architecture
    from star.genome import stack as stacked
    from star.lm import analyse
    from star.report.page import write_text
    from star.synthesis.pools import pool_toml
    from star.synthesis.recipe import MOST_LIVS

    if stack == 1 and width is None:
        raise StarError("there is nothing to scale; give --stack, --width or both")
    found = resolve_architecture(target, depth=depth, pool=pool, extend=extend)
    recipe, before = found.recipe, found.genome.canonical(found.pool)
    if from_width is None:
        from_width = recipe.model.width if recipe else WIDTH
    if length is None:
        length = recipe.cache_length if recipe else LENGTH
    if length < 1:
        raise StarError(f"--length is {length}, but it must be at least 1")
    if stack * before.depth > MOST_LIVS:
        raise StarError(f"--stack {stack} gives {stack * before.depth} LIVs; a backbone has at most {MOST_LIVS}")
    after = stacked(before, stack).canonical(found.pool)
    original = analyse(before, found.pool, width=from_width, length=length)
    scaled = analyse(after, found.pool, width=from_width if width is None else width, length=length)
    given = {"--pool": pool, "--extend": extend}
    if write_pool is not None:
        write_text(write_pool, pool_toml(after, found.pool))
        given = {"--pool": str(write_pool)}
    command = _command(replace(found, genome=after), scaled.width, given)
    if as_json:
        sizes = {"original": facts(before, found.pool, original), "scaled": facts(after, found.pool, scaled)}
        print_json({**sizes, "train": command})
        return
    say(f"genome {after}")
    say("")
    print_table(
        ["", ">LIVs", ">width", ">parameters", f">cache at {length:,}"],
        [
            (name, str(len(cost.rows)), f"{cost.width:,}", f"{cost.parameters:,}", f"{cost.cache_bytes:,}")
            for name, cost in (("original", original), ("scaled", scaled))
        ],
    )
    say("")
    if command is None:
        say(f"The LIV classes of {found.name} are its own; --write-pool FILE writes them, to train the scaled one.")
    else:
        say(f"Next: `{command}` trains the scaled one.")


def _command(target: ArchitectureTarget, width: int, given: dict[str, str | None]) -> str | None:
    """The command that trains `target`, a candidate on the text of its run; None where the genome and the options
    `given` do not say what its classes are."""
    from star.synthesis.pools import genome_pool

    try:
        pool = genome_pool(target.genome, given.get("--pool"), given.get("--extend"))
        if target.genome.digest(pool) != target.genome.digest(target.pool):
            return None
    except StarError:
        return None
    options = {"--width": str(width), **given}
    if (recipe := target.recipe) is not None:
        options |= {"--length": str(recipe.training.length)}
        options |= {"--data": recipe.data.source, "--tokenizer": recipe.data.tokenizer}
    words = [word for name, value in options.items() if value is not None for word in (name, value)]
    return shlex.join(["star", "train", str(target.genome), *words])
