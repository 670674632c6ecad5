"""`star evolve`: search for architectures, or continue a search."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from star.cli.console import INTERRUPTED_STATUS, say

if TYPE_CHECKING:
    from star.synthesis import Recipe, Run

DEFAULT_RECIPE = "default"
RUNS = Path("runs")


def run(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="default, demo, paper-125m, or a TOML file; without it a run that exists continues with its own.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Text to train on: a file, a folder, .jsonl, .parquet, or python-stdlib."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="bytes, bpe:VOCAB (such as bpe:4096), or the path of a tokenizer.json.")
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", help="The run directory; one that exists is continued.")] = None,
    objectives: Annotated[
        str | None,
        typer.Option(help="What to minimise, with commas: perplexity, parameters, cache_bytes@L for L tokens."),
    ] = None,
    population: Annotated[int | None, typer.Option(help="Candidates of a population.")] = None,
    generations: Annotated[int | None, typer.Option(help="Generations; more extend a finished run.")] = None,
    depth: Annotated[int | None, typer.Option(help="LIVs of each candidate.")] = None,
    width: Annotated[int | None, typer.Option(help="Channels of each candidate.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of one training sequence.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Training budget of each candidate, in tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the search and of all weights.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Candidates trained at once; default: as many as fill the cores.")
    ] = None,
) -> None:
    """Evolve architectures on your text.

    A run can be interrupted or killed at any moment: the same command continues it.
    """
    from star.cli.progress import search_progress
    from star.synthesis import evolve

    chosen = _base_recipe(recipe, run).override(
        {
            "data.source": data,
            "data.tokenizer": tokenizer,
            "search.objectives": objectives,
            "search.population": population,
            "search.generations": generations,
            "model.depth": depth,
            "model.width": width,
            "training.length": length,
            "training.tokens": tokens,
            "search.seed": seed,
        }
    )
    path = run or RUNS / default_name(recipe or DEFAULT_RECIPE, chosen)
    say(f"run directory: {path}", err=True)
    try:
        with search_progress("candidates") as listener:
            result = evolve(chosen, run=path, workers=workers, listener=listener)
    except KeyboardInterrupt:
        say(
            f"Interrupted; no result is lost: `star evolve --run {shlex.quote(str(path))}` continues the run.", err=True
        )
        raise typer.Exit(INTERRUPTED_STATUS) from None
    with result:
        show_front(result)


def default_name(recipe: str, chosen: Recipe) -> str:
    """The name of a run that was given none: one for each recipe and overrides, so that repeating it continues it."""
    settings = chosen.model_dump_json(exclude={"search": {"generations"}})  # more generations are the same run
    return f"{Path(recipe).stem}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"


def _base_recipe(recipe: str | None, run: Path | None) -> Recipe:
    from star.synthesis import Recipe, Run
    from star.synthesis.store import DATABASE

    if recipe is None and run is not None and (run / DATABASE).is_file():
        with Run.open(run) as existing:
            return existing.recipe
    return Recipe.load(recipe or DEFAULT_RECIPE)


def show_front(run: Run) -> None:
    """The front as a table, how far the search came, and what to do next."""
    from star.cli.tables import candidate_table

    front, volumes = run.front, run.hypervolumes
    title = f"Front of generation {run.generations}: {len(front)} of {len(run.candidates)} candidates"
    candidate_table(front, run.recipe, title=title)
    say("")
    say(f"Hypervolume: {volumes[0]:.3f} in generation 1, {volumes[-1]:.3f} in generation {len(volumes)}.")
    path = shlex.quote(str(run.path))
    say(f"Next: `star compare {path}` trains the baselines alike, `star report {path}` draws everything.")
