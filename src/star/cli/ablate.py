"""`star ablate`: one search for each condition of a recipe, and what came of them side by side."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from star.cli import options
from star.cli.console import INTERRUPTED_STATUS, NOTHING, print_json, print_table, say

if TYPE_CHECKING:
    from star.synthesis import Ablation, ConditionResult


def run(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="residual-ablation (paper A.7), or a TOML file: a recipe with an [ablation.NAME] table of settings "
            "for each condition.",
        ),
    ],
    data: options.Data = None,
    tokenizer: options.Tokenizer = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Where each condition gets a run directory; those that exist are continued."),
    ] = None,
    objectives: options.Objectives = None,
    constraints: options.Constraints = None,
    pool: options.Pool = None,
    extend: options.Extend = None,
    halving: options.Halving = False,
    surrogate: options.SurrogateScreen = False,
    asynchronous: options.Asynchronous = False,
    population: options.Population = None,
    generations: options.Generations = None,
    depth: options.Depth = None,
    width: options.Width = None,
    length: options.Length = None,
    tokens: options.Tokens = None,
    batch_tokens: options.BatchTokens = None,
    seed: options.Seed = None,
    workers: options.Workers = None,
    as_json: options.AsJson = False,
) -> None:
    """Run one search for each condition of a recipe, and compare what they find.

    It can be interrupted or killed at any moment: the same command continues it. Options change all conditions.
    """
    from star.synthesis.server import start_server

    start_server()  # it imports torch during the imports here

    from star.cli.progress import search_progress
    from star.synthesis import Ablation, ablate

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
    loaded = Ablation.load(recipe)
    settings |= options.scheme_settings(loaded.recipe, halving=halving, surrogate=surrogate, asynchronous=asynchronous)
    chosen = loaded.override(settings)
    path = run or options.default_run(recipe, *chosen.recipes.values())
    say(f"run directories: {', '.join(str(path / name) for name in chosen.conditions)}", err=True)
    try:
        with search_progress("candidates") as listener:
            results = ablate(chosen, run=path, workers=workers, listener=listener)
    except KeyboardInterrupt:
        command = shlex.join(["star", *sys.argv[1:]])
        say(f"Interrupted; no result is lost: `{command}` continues.", err=True)
        raise typer.Exit(INTERRUPTED_STATUS) from None
    if as_json:
        print_json(ablation_facts(chosen, results))
    else:
        _show(results)


def _show(results: list[ConditionResult]) -> None:
    from star.synthesis.objectives import format_count

    print_table(
        ["condition", ">candidates", ">best\nperplexity", ">fewest\nparameters", ">hypervolume"],
        [
            (
                result.condition,
                f"{result.candidates}" + (f" ({result.failed} failed)" if result.failed else ""),
                NOTHING if result.best_perplexity is None else f"{result.best_perplexity:.3f}",
                NOTHING if result.fewest_parameters is None else format_count(result.fewest_parameters),
                f"{result.hypervolumes[-1]:.3f}",
            )
            for result in results
        ],
        title="The front of each condition",
    )
    say("")
    say("Hypervolumes are shares of one box, that of all first generations together.")
    path = shlex.quote(str(results[-1].run))
    say(f"Next: `star report {path}` draws a condition's run, `star compare {path}` trains its baselines.")


def ablation_facts(ablation: Ablation, results: list[ConditionResult]) -> dict[str, Any]:
    """The JSON form: without times and paths, so that equal ablations are equal text."""
    return {
        "objectives": list(ablation.recipe.search.objectives),
        "conditions": [
            {
                "condition": result.condition,
                "settings": dict(ablation.conditions[result.condition]),
                "candidates": result.candidates,
                "failed": result.failed,
                "best_perplexity": result.best_perplexity,
                "fewest_parameters": result.fewest_parameters,
                "hypervolumes": list(result.hypervolumes),
            }
            for result in results
        ],
    }
