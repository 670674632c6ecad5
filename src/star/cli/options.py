"""Options and arguments that several commands have, and the settings of a recipe that they stand for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from star.synthesis import Recipe

RUNS = Path("runs")
PRESET_NAMES = "transformer++, striped-mamba, deformer, deformer-only"
GENOME = f"A genome such as '11111 91111', a preset ({PRESET_NAMES})"

Data = Annotated[
    str | None, typer.Option(help="Text to train on: a file, a folder, .jsonl, .parquet, or python-stdlib.")
]
Tokenizer = Annotated[
    str | None, typer.Option(help="bytes, bpe:VOCAB (such as bpe:4096), or the path of a tokenizer.json.")
]
Objectives = Annotated[
    str | None,
    typer.Option(
        help="What to minimise, with commas: perplexity, parameters, cache_bytes@L, flops@L, prefill_time@L, "
        "decode_time@L for L tokens, mad, python:MODULE.FUNCTION."
    ),
]
Constraints = Annotated[
    str | None,
    typer.Option(help="What candidates must keep to, with commas: parameters<=80e6; any objective, <= or >=."),
]
Pool = Annotated[
    str | None,
    typer.Option(
        metavar="POOL", help="LIV classes: paper (1 to 17), extended (1 to 31), or a TOML file with [[classes]]."
    ),
]
Extend = Annotated[
    str | None,
    typer.Option(
        help="What a search may use beside five integers, with commas: residual, paths, routing, depth, operators."
    ),
]
GenomePool = Annotated[
    str | None,
    typer.Option(
        "--pool",
        metavar="POOL",
        help="LIV classes of a genome: paper, extended, or a TOML file; default: the first that has them.",
    ),
]
GenomeExtend = Annotated[
    str | None,
    typer.Option(
        "--extend",
        help="What a genome may use, with commas: residual, paths, routing, depth, operators; default without --pool: "
        "all but operators, which is for searches.",
    ),
]
Calibrate = Annotated[
    bool | None,
    typer.Option(
        "--calibrate/--no-calibrate",
        help="Find the fastest threads, precision, library for products and micro-batch here first, in seconds; "
        "default: the recipe's.",
    ),
]
Halving = Annotated[
    bool,
    typer.Option(
        "--halving",
        help="Train in rungs and stop most candidates early; sets the recipe's [halving] and a trapezoid schedule.",
    ),
]
SurrogateScreen = Annotated[
    bool,
    typer.Option(
        "--surrogate", help="Breed more than is trained, and choose by predicted scores; sets the recipe's [surrogate]."
    ),
]
Asynchronous = Annotated[
    bool,
    typer.Option(
        "--asynchronous",
        help="Breed one candidate whenever a worker is free, without generations to wait for; sets the recipe's mode = "
        "steady-state. With several workers, what is found depends on who is ready first.",
    ),
]
Inherit = Annotated[
    bool,
    typer.Option(
        "--inherit", help="Begin with the parents' trained weights where they fit; sets the recipe's [inheritance]."
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(help="Stop after this time, such as 90s, 30m or 2h: what runs is finished, the run can be continued."),
]
SeedFrom = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Begin with the front of another run, of the same depth; its own and derived classes come along.",
    ),
]
Population = Annotated[int | None, typer.Option(help="Candidates of a population.")]
Generations = Annotated[int | None, typer.Option(help="Generations; more extend a finished run.")]
Depth = Annotated[int | None, typer.Option(help="LIVs of each candidate.")]
Width = Annotated[int | None, typer.Option(help="Channels of each candidate.")]
Length = Annotated[int | None, typer.Option(help="Tokens of one training sequence.")]
Tokens = Annotated[int | None, typer.Option(help="Training budget of each candidate, in tokens.")]
BatchTokens = Annotated[int | None, typer.Option(help="Tokens of one optimiser step.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the search and of all weights.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Candidates trained at once; default: as many as fill the cores.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

#: The setting that an option of a search changes.
_SETTINGS = {
    "data": "data.source",
    "tokenizer": "data.tokenizer",
    "objectives": "search.objectives",
    "constraints": "search.constraints",
    "population": "search.population",
    "generations": "search.generations",
    "depth": "model.depth",
    "width": "model.width",
    "length": "training.length",
    "tokens": "training.tokens",
    "batch_tokens": "training.batch_tokens",
    "seed": "search.seed",
}


def search_settings(*, pool: str | None, extend: str | None, **options: Any) -> dict[str, Any]:
    """Settings by dotted name, for `Recipe.override`, from the options of a search by name."""
    from star.synthesis.pools import pool_settings

    return {_SETTINGS[name]: value for name, value in options.items()} | pool_settings(pool, extend)


def scheme_settings(
    recipe: Recipe, *, halving: bool = False, surrogate: bool = False, asynchronous: bool = False, inherit: bool = False
) -> dict[str, Any]:
    """The settings by which a search departs from the paper's protocol, where the recipe has none of its own."""
    from star.synthesis.recipe import HalvingRecipe, InheritanceRecipe, SurrogateRecipe

    settings: dict[str, Any] = {}
    if halving and recipe.halving is None:
        settings |= {"halving.rungs": HalvingRecipe().rungs, "training.schedule": "trapezoid"}
    if surrogate and recipe.surrogate is None:
        settings["surrogate.factor"] = SurrogateRecipe().factor
    if inherit and recipe.inheritance is None:
        settings["inheritance.discount"] = InheritanceRecipe().discount
    if asynchronous:
        settings["search.mode"] = "steady-state"
    return settings


def seconds(text: str) -> float:
    """`90s`, `30m` or `2h` as seconds; `StarError` for anything else."""
    from star.errors import StarError

    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    try:
        value = float(text[:-1]) * units[text[-1:]]
    except (KeyError, ValueError):
        value = 0.0
    if not 0 < value < float("inf"):
        raise StarError(f"--budget is {text!r}, which is no time; write it as 90s, 30m, 2h or 1d")
    return value


def default_run(recipe: str, *chosen: Recipe) -> Path:
    """The run directory where none was given: one for each recipe and overrides, so that repeating the command
    continues it."""
    settings = [each.model_dump_json(exclude={"search": {"generations"}}) for each in chosen]  # more are the same run
    return RUNS / f"{Path(recipe).stem}-{hashlib.sha256(''.join(settings).encode()).hexdigest()[:8]}"
