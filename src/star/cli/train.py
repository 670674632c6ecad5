"""`star train`: train one architecture for longer, into a checkpoint."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from star.cli import options
from star.cli.console import INTERRUPTED_STATUS, leave, say
from star.errors import StarError

if TYPE_CHECKING:
    from star.cli.job import Job, Record
    from star.cli.targets import ArchitectureTarget
    from star.synthesis import Recipe
    from star.training import TrainingRecipe

BASE_RECIPE = "default"
LONGER = 10  # default budget over that of the search
FEWEST_STEPS = 8  # that a budget below the recipe's batch is cut into, where the length allows
CHECKPOINTS = Path("checkpoints")


def run(
    target: Annotated[
        str,
        typer.Argument(
            metavar="GENOME|PRESET|RUN:CANDIDATE",
            help=f"{options.GENOME}, or a candidate, which takes text, width, length and training settings from its "
            "run.",
        ),
    ],
    data: options.Data = None,
    tokenizer: options.Tokenizer = None,
    pool: options.GenomePool = None,
    extend: options.GenomeExtend = None,
    depth: Annotated[int | None, typer.Option(help="LIVs of a preset; default 8.")] = None,
    width: Annotated[int | None, typer.Option(help="Channels; default 128.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of one training sequence; default 512.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Training budget; default ten times that of the search.")] = None,
    batch_tokens: options.BatchTokens = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and batches.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the checkpoint; an unfinished training in it is continued.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 …; default: cuda where there is one.")] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads, which compute parts of a batch side by side if they can; default: all cores."),
    ] = None,
    matmul: Annotated[
        str | None,
        typer.Option(help="What multiplies float32 matrices on CPUs: default or onednn; default: the recipe's."),
    ] = None,
) -> None:
    """Train one architecture and write model.safetensors, config.json, the tokenizer and a record.

    A training that is interrupted or killed continues exactly where its last state was saved, with the same command.
    """
    from star.cli.job import as_begun, finished_record, side_by_side, train_job
    from star.cli.progress import corpus_progress, training_progress
    from star.cli.targets import resolve_architecture
    from star.data import prepare
    from star.machine import usable_cores
    from star.synthesis import Recipe

    base = Recipe.load(BASE_RECIPE)
    architecture = resolve_architecture(target, depth=depth, preset_depth=base.model.depth, pool=pool, extend=extend)
    base = architecture.recipe or base
    tokens = base.training.tokens * LONGER if tokens is None else tokens
    recipe = base.override(
        {
            "data.source": data,
            "data.tokenizer": tokenizer,
            "model.width": width,
            "training.length": length,
            "training.batch_tokens": _fitting_batch(base, tokens, length, batch_tokens),
            "training.tokens": tokens,
            "training.peak_learning_rate": learning_rate,
            "training.threads": threads,
            "training.matmul": matmul,
        }
    )
    threads, device = threads or usable_cores(), device or default_device()
    job = _job(architecture, recipe.override({"training.threads": threads}), seed)
    folder, most = out or default_folder(architecture, job), job.training.micro_batch_size
    cut = side_by_side(job, threads, device)
    job = as_begun(cut, folder)
    say(f"checkpoint folder: {folder}", err=True)
    record = finished_record(job, folder)
    if record is not None:
        say("this training is finished already", err=True)
    else:
        computation = _computation(job.training, device)
        if computation != _computation(cut.training, device):
            say(f"computed as it was begun: {computation}", err=True)
        try:
            with corpus_progress() as reading:
                corpus = prepare(job.data, length=job.training.length, progress=reading)
            say(f"text: {corpus.description}", err=True)
            with training_progress(architecture.name) as on_step:
                replicas = job.training.replicas(threads, most)
                record = train_job(
                    job, corpus, folder, device=device, threads=threads, replicas=replicas, on_step=on_step
                )
        except KeyboardInterrupt:
            command = shlex.join(["star", *sys.argv[1:]])
            say(f"Interrupted; the same command continues the training: `{command}`.", err=True)
            leave(INTERRUPTED_STATUS)
    _tell(record, folder)


def _fitting_batch(base: Recipe, tokens: int, length: int | None, batch_tokens: int | None) -> int | None:
    """The tokens of a step: as asked, or those of the recipe, lowered where the budget does not pay for one step.

    Raises StarError where not even one sequence, or not the step asked for, fits into the budget.
    """
    length = base.training.length if length is None else length
    if tokens < 1 or length < 1:
        return batch_tokens  # the recipe tells what is wrong
    if tokens < length:
        raise StarError(f"--tokens {tokens} is less than one sequence of {length} tokens; raise it or lower --length")
    if batch_tokens is not None and batch_tokens > tokens:
        raise StarError(
            f"--tokens {tokens} does not pay for one step of --batch-tokens {batch_tokens}; raise the one or lower "
            "the other"
        )
    if batch_tokens is None and tokens < base.training.batch_tokens:
        return max(length, tokens // FEWEST_STEPS)
    return batch_tokens


def _job(architecture: ArchitectureTarget, recipe: Recipe, seed: int) -> Job:
    from star.cli.job import Job

    return Job(
        genome=architecture.genome,
        pool=architecture.pool,
        width=recipe.model.width,
        tie_embeddings=recipe.model.tie_embeddings,
        data=recipe.data,
        training=recipe.training,
        seed=seed,
    )


def _computation(training: TrainingRecipe, device: str) -> str:
    """What decides the last bits of a training."""
    tokens = f"{training.micro_batch_size * training.length:,} tokens at a time"
    return f"{tokens}, on {training.threads} thread(s)" if device.startswith("cpu") else tokens


def default_folder(architecture: ArchitectureTarget, job: Job) -> Path:
    """The folder of a checkpoint that was given none: one for each training, so that repeating it continues it.

    Threads are no part of its name, because any machine continues it; a folder that was named with them is found.
    """
    settings = job.settings
    with_threads = json.dumps(settings, sort_keys=True)
    del settings["training"]["threads"]
    names = [
        f"{architecture.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        for text in (with_threads, json.dumps(settings, sort_keys=True))
    ]
    return next((path for name in names if (path := CHECKPOINTS / name).exists()), CHECKPOINTS / names[-1])


def default_device() -> str:
    """CUDA where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _tell(record: Record, folder: Path) -> None:
    from star.cli.watch import duration

    bits = "" if record.bits_per_byte is None else f", {record.bits_per_byte:.3f} bits a byte"
    say(
        f"perplexity {record.perplexity:.3f} on held-out text ({record.loss:.4f} nats a token{bits}) "
        f"after {record.tokens:,} tokens in {duration(record.seconds)}"
    )
    say(f"Next: `star generate {shlex.quote(str(folder))} 'def '` continues a prompt.", err=True)
