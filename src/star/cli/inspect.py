"""`star inspect`: what a genome or checkpoint builds and costs, what a run has found, what a trained LIV computes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from star.cli import options
from star.cli.architecture import LENGTH, WIDTH, derived_classes, facts, show
from star.cli.console import print_json, print_table, say
from star.errors import StarError

if TYPE_CHECKING:
    from star.cli.targets import ArchitectureTarget
    from star.lm import Cost
    from star.synthesis import Candidate, Run


def run(
    target: Annotated[
        str,
        typer.Argument(
            metavar="GENOME|PRESET|RUN[:CANDIDATE]|CHECKPOINT",
            help=f"{options.GENOME}, a run directory, one of its candidates, or a folder that `star train` wrote.",
        ),
    ],
    depth: Annotated[int | None, typer.Option(help="LIVs of a preset; default 24.")] = None,
    width: Annotated[int | None, typer.Option(help="Channels; default 768, for a candidate its run's.")] = None,
    length: Annotated[
        int | None, typer.Option(help="Tokens in the cache; default 4096, for a candidate its run's.")
    ] = None,
    pool: options.GenomePool = None,
    extend: options.GenomeExtend = None,
    materialize: Annotated[
        bool, typer.Option("--materialize", help="Draw T of each LIV of a checkpoint, as it is on a text.")
    ] = False,
    liv: Annotated[int | None, typer.Option(help="Draw only this LIV; they count from 0.")] = None,
    text: Annotated[str | None, typer.Option(help="The text that T depends on; default: a short sentence.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The picture, .svg or .html; default: CHECKPOINT/operators.svg.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Show each LIV of an architecture with its parameters and cache, or the last population of a run.

    Nothing is allocated or trained. Embeddings are not counted; a cache element takes 2 bytes (bf16).

    With --materialize: draw the operators T(x) of a trained model.
    """
    from star.cli import materialize as drawing
    from star.cli.targets import RunTarget, resolve

    if not materialize:
        drawing.refuse({"liv": liv, "text": text, "out": out})
    found = resolve(target, depth=depth, pool=pool, extend=extend)
    if materialize:
        if isinstance(found, RunTarget) or found.checkpoint is None:
            raise StarError(f"{target!r} is not trained, so it has no T; name a folder that `star train` wrote")
        if width is not None or length is not None:
            raise StarError("--width and --length mean nothing with --materialize; T has the length of --text")
        drawing.show(found.checkpoint, liv=liv, text=text, out=out, as_json=as_json)
    elif isinstance(found, RunTarget):
        given = [f"--{name}" for name, value in (("depth", depth), ("width", width), ("length", length)) if value]
        if given:
            raise StarError(
                f"{target!r} is a whole run, but {' and '.join(given)} belongs to genomes, presets and candidates; "
                f"name one of its candidates, such as {target}:1"
            )
        _inspect_run(found, as_json)
    else:
        _inspect_architecture(found, width, length, as_json)


def _inspect_architecture(target: ArchitectureTarget, width: int | None, length: int | None, as_json: bool) -> None:
    from star.lm import analyse

    recipe, config = target.recipe, target.config
    if config is not None and width not in (None, config.width):
        raise StarError(f"--width is {width}, but the weights of {target.name!r} have width {config.width}")
    own_width = config.width if config else recipe.model.width if recipe else WIDTH
    own_length = config.length if config else recipe.cache_length if recipe else LENGTH
    width, length = own_width if width is None else width, own_length if length is None else length
    for name, value in (("width", width), ("length", length)):
        if value < 1:
            raise StarError(f"--{name} is {value}, but it must be at least 1")
    cost = analyse(target.genome, target.pool, width=width, length=length)
    if as_json:
        print_json(architecture_facts(target, cost))
        return
    if target.candidate is not None:
        say(_ancestry(target.candidate))
    if config is not None:
        tied = "tied" if config.tie_embeddings else "untied"
        say(f"checkpoint of {config.vocab_size:,} tokens ({tied} embeddings), trained at length {config.length:,}")
    show(target, cost)


def _ancestry(candidate: Candidate) -> str:
    """Where a candidate comes from and how it did, in one line."""
    from star.cli.watch import summary

    if candidate.id is None:
        return f"baseline {candidate.name}: {summary(candidate)}"
    parents = f", parents {' and '.join(candidate.parents)}" if candidate.parents else ""
    result = "not trained yet" if candidate.status.value == "pending" else summary(candidate)
    return f"candidate {candidate.name} of generation {candidate.generation}{parents}: {result}{_training(candidate)}"


def _training(candidate: Candidate) -> str:
    """What lies behind weights that were not trained from scratch."""
    if not candidate.inherited_tokens:
        return ""
    return f"; trained on {candidate.tokens:,} tokens, with its inheritance {candidate.lineage_tokens:,}"


def architecture_facts(target: ArchitectureTarget, cost: Cost) -> dict[str, Any]:
    """The JSON form of an architecture and its cost, and of the candidate or checkpoint that it is."""
    found = {} if target.candidate is None else {"candidate": candidate_facts(target.candidate)}
    if target.config is not None:
        found["checkpoint"] = {
            "vocab_size": target.config.vocab_size,
            "tie_embeddings": target.config.tie_embeddings,
            "length": target.config.length,
        }
    return found | facts(target.genome, target.pool, cost)


def _inspect_run(target: Any, as_json: bool) -> None:
    from star.cli.tables import candidate_table
    from star.genome import BackboneGenome
    from star.synthesis import Run

    with Run.open(target.path) as run:
        if as_json:
            print_json(run_facts(run))
            return
        recipe, population = run.recipe, run.last_population
        say(recipe.to_toml())
        if run.calibration is not None:
            say(f"calibrated: {run.calibration.setting}")
        say(f"state {run.state.value}, {run.generations} of {recipe.search.generations} generations")
        if not population:
            return
        say("")
        front = frozenset(candidate.name for candidate in run.front)
        candidate_table(
            population,
            recipe,
            title=f"Population {run.generations}, best first; * on the front",
            mark=front,
        )
        used = {liv for candidate in population for liv in derived_classes(BackboneGenome.parse(candidate.canonical))}
        if used:
            say("")
            rows = [(str(row.id), row.name, str(row.operator)) for row in run.derived if row.id in used]
            print_table([">class", "<name", "<operator"], rows, title="Derived classes of this population")


def run_facts(run: Run) -> dict[str, Any]:
    """The JSON form of a run: without times, speeds and paths, so that equal searches are equal text."""
    front = {candidate.name for candidate in run.front}
    return {
        "recipe": run.recipe.model_dump(mode="json"),
        "calibration": None if run.calibration is None else asdict(run.calibration),
        "state": run.state.value,
        "generations": run.generations,
        "hypervolumes": run.hypervolumes,
        "derived": [row.to_dict() for row in run.derived],
        "population": [
            {**candidate_facts(candidate), "on_front": candidate.name in front} for candidate in run.last_population
        ],
    }


def candidate_facts(candidate: Candidate) -> dict[str, Any]:
    """The JSON form of a candidate or baseline, without times."""
    return {
        "name": candidate.name,
        "genome": candidate.genome,
        "canonical": candidate.canonical,
        "digest": candidate.digest,
        "generation": candidate.generation,
        "parents": list(candidate.parents),
        "status": candidate.status.value,
        "seed": candidate.seed,
        "parameters": candidate.parameters,
        "cache_bytes": candidate.cache_bytes,
        "scores": candidate.scores,
        "metrics": candidate.metrics,
        "violated": list(candidate.violated),
        "rungs": [{"tokens": rung.tokens, "scores": rung.scores} for rung in candidate.rungs],
        "tokens": candidate.tokens,
        "lineage_tokens": candidate.lineage_tokens,
        "failure": candidate.failure,
    }
