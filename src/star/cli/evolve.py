"""`star evolve`: search for architectures, or continue a search."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from star.cli import options
from star.cli.console import INTERRUPTED_STATUS, say

if TYPE_CHECKING:
    from star.synthesis import Recipe, Run

DEFAULT_RECIPE = "default"


def run(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="default, demo, extended, paper-125m, or a TOML file; without it a run that exists continues with "
            "its own.",
        ),
    ] = None,
    data: options.Data = None,
    tokenizer: options.Tokenizer = None,
    run: Annotated[Path | None, typer.Option("--run", help="The run directory; one that exists is continued.")] = None,
    objectives: options.Objectives = None,
    constraints: options.Constraints = None,
    pool: options.Pool = None,
    extend: options.Extend = None,
    halving: options.Halving = False,
    surrogate: options.SurrogateScreen = False,
    asynchronous: options.Asynchronous = False,
    inherit: options.Inherit = False,
    population: options.Population = None,
    generations: options.Generations = None,
    depth: options.Depth = None,
    width: options.Width = None,
    length: options.Length = None,
    tokens: options.Tokens = None,
    batch_tokens: options.BatchTokens = None,
    seed: options.Seed = None,
    workers: options.Workers = None,
    seed_from: options.SeedFrom = None,
    budget: options.Budget = None,
    calibrate: options.Calibrate = None,
) -> None:
    """Evolve architectures on your text.

    A run can be interrupted or killed at any moment: the same command continues it.
    """
    from star.synthesis.server import start_server

    start_server()  # it imports torch during the imports here

    from star.cli.progress import search_progress
    from star.synthesis import Run, RunState, evolve
    from star.synthesis.seeding import seeded

    settings = options.search_settings(
        data=data,
        tokenizer=tokenizer,
        objectives=objectives,
        constraints=constraints,
        pool=pool,
        extend=extend,
        population=population,
        generations=generations,
        depth=depth,
        width=width,
        length=length,
        tokens=tokens,
        batch_tokens=batch_tokens,
        seed=seed,
    )
    base = _base_recipe(recipe, run)
    settings |= options.scheme_settings(
        base, halving=halving, surrogate=surrogate, asynchronous=asynchronous, inherit=inherit
    )
    settings["search.calibrate"] = calibrate
    limit = None if budget is None else options.seconds(budget)
    if seed_from is not None:
        settings["search.initial"] = ()
    chosen = base.override(settings)
    if seed_from is not None:
        with Run.open(seed_from) as seeds:
            chosen = seeded(chosen, seeds)
    path = run or options.default_run(recipe or DEFAULT_RECIPE, chosen)
    say(f"run directory: {path}", err=True)
    try:
        with search_progress("candidates") as listener:
            result = evolve(chosen, run=path, workers=workers, listener=listener, budget=limit)
    except KeyboardInterrupt:
        say(
            f"Interrupted; no result is lost: `star evolve --run {shlex.quote(str(path))}` continues the run.", err=True
        )
        raise typer.Exit(INTERRUPTED_STATUS) from None
    with result:
        if result.generations:
            show_front(result)
        if limit is not None and result.state is RunState.INTERRUPTED:
            say(f"The time is over: `star evolve --run {shlex.quote(str(path))}` continues the run.", err=True)


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
