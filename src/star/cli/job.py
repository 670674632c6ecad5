"""One long training as a folder: settings and record, a state to continue from, and at the end the checkpoint."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from star.data import DataRecipe
from star.errors import StarError
from star.genome import BackboneGenome, OptionPool
from star.training import Diverged, TrainingRecipe

if TYPE_CHECKING:
    from star.data import TokenizedCorpus
    from star.training import StepReport

RECORD_FILE = "training.json"
HALF_WRITTEN = f".{RECORD_FILE}"  # what a kill may leave while the record is written
STATE_FOLDER = "unfinished"  # what a killed training continues from; gone when it is finished
FORMAT = 1
GRADIENT_BYTES = 1 << 31  # that micro-batches which are computed side by side may take together
MOST_TOKENS = 1 << 16  # of a vocabulary that is not known before the text is read
SAVES = 50  # of the state, in a whole training: a kill costs at most this share of it


@dataclass(frozen=True)
class Job:
    """Everything that decides the weights, apart from the device."""

    genome: BackboneGenome
    pool: OptionPool
    width: int
    tie_embeddings: bool
    data: DataRecipe
    training: TrainingRecipe
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "genome": str(self.genome.canonical(self.pool)),
            "pool": self.pool.to_dict(),
            "width": self.width,
            "tie_embeddings": self.tie_embeddings,
            "data": self.data.model_dump(mode="json"),
            "training": self.training.model_dump(mode="json"),
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Record:
    """What a finished training measured."""

    tokens: int
    seconds: float
    loss: float
    perplexity: float
    bits_per_byte: float | None
    curve: tuple[tuple[int, float], ...]


def finished_record(job: Job, folder: Path) -> Record | None:
    """The record of the same training where it is finished in `folder`.

    Raises StarError where `folder` belongs to another training, or to none.
    """
    path = folder / RECORD_FILE
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(entry.name != HALF_WRITTEN for entry in folder.iterdir())):
            raise StarError(f"{str(folder)!r} holds something else than a training; name a new or empty folder")
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise StarError(f"{path} has format {data['format']}, not {FORMAT}: choose another folder with --out")
        result = data["result"]
        # Fields that it was written without have their defaults.
        pool = OptionPool.from_dict(data["settings"]["pool"])
        training = TrainingRecipe.model_validate(data["settings"]["training"])
        saved = {**data["settings"], "pool": pool.to_dict(), "training": training.model_dump(mode="json")}
        record = None if result is None else _record(result)
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        if isinstance(error, StarError):
            raise
        raise StarError(f"{path} is damaged ({error}): choose another folder with --out") from None
    if differing := _differences(saved, json.loads(json.dumps(job.settings))):
        raise StarError(
            f"{str(folder)!r} holds another training ({', '.join(differing)}): give the same settings to continue it, "
            "or another --out"
        )
    if record is not None:
        shutil.rmtree(folder / STATE_FOLDER, ignore_errors=True)  # a kill after the last write may have left it
    return record


def side_by_side(job: Job, threads: int, device: str) -> Job:
    """The job cut for `threads` CPU threads, if it runs there, as far as the memory for gradients allows."""
    from star.lm.cost import analyse

    if not device.startswith("cpu"):
        return job
    cost = analyse(job.genome, job.pool, width=job.width, length=job.training.length)
    parameters = cost.parameters + (1 if job.tie_embeddings else 2) * MOST_TOKENS * job.width
    return replace(job, training=job.training.side_by_side(threads, most=GRADIENT_BYTES // (4 * parameters)))


def _record(result: dict[str, Any]) -> Record:
    bits = result["bits_per_byte"]
    return Record(
        tokens=int(result["tokens"]),
        seconds=float(result["seconds"]),
        loss=float(result["loss"]),
        perplexity=float(result["perplexity"]),
        bits_per_byte=None if bits is None else float(bits),
        curve=tuple((int(tokens), float(loss)) for tokens, loss in result["curve"]),
    )


def as_begun(job: Job, folder: Path) -> Job:
    """The job with the threads and micro-batches of what `folder` holds, if anything, so that any machine continues it
    to the same weights."""
    try:
        settings = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))["settings"]
        begun = TrainingRecipe.model_validate(settings["training"])
        own = job.training.replace(threads=begun.threads, micro_batch_tokens=begun.micro_batch_tokens)
        return replace(job, training=own)
    except (OSError, ValueError, KeyError, TypeError, StarError):  # `finished_record` tells what is wrong
        return job


def train_job(
    job: Job,
    corpus: TokenizedCorpus,
    folder: Path,
    *,
    device: str,
    threads: int,
    replicas: int,
    on_step: Callable[[StepReport], None] | None = None,
) -> Record:
    """Train `job` in `folder`, from where it was left, and write the checkpoint: weights, config, tokenizer, record.

    On a CPU `replicas` micro-batches are computed at a time, or as many as have room for their gradients, and the
    perplexity at the end on `threads`.

    Raises StarError where training diverges, the folder cannot be written, the device does not exist, or the recipe's
    library for products cannot be used on it.
    """
    import torch

    from star.evaluation import perplexity
    from star.liv.kernels import choices
    from star.lm import LanguageModel
    from star.training import CheckpointPolicy, train
    from star.training import threads as on_threads
    from star.training.precision import require_matmul

    _require_device(device)
    recipe = job.training
    require_matmul(recipe.matmul, torch.device(device))
    choices(device)  # compiles, all at once and where an interruption is noticed
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_record(job, folder, None)
        with on_threads(recipe.threads):
            model = LanguageModel.from_genome(
                job.genome.canonical(job.pool),
                pool=job.pool,
                width=job.width,
                vocab_size=corpus.vocab_size,
                length=recipe.length,
                tie_embeddings=job.tie_embeddings,
                seed=job.seed,
            )
            parameters = sum(parameter.numel() for parameter in model.parameters())
            state = folder / STATE_FOLDER
            policy = CheckpointPolicy(state, max(recipe.step_tokens, recipe.tokens // SAVES))
            result = train(
                model,
                corpus,
                recipe,
                seed=job.seed,
                device=device,
                on_step=on_step,
                checkpoint=policy,
                replicas=min(replicas, max(1, GRADIENT_BYTES // (4 * parameters))),
            )
        with on_threads(max(threads, recipe.threads)):
            evaluation = perplexity(
                model,
                corpus.validation,
                length=recipe.length,
                tokens=recipe.validation_tokens,
                bytes_per_token=corpus.bytes_per_token,
            )
        model.save(folder)
        corpus.tokenizer.save(folder)
        record = Record(
            tokens=result.tokens,
            seconds=result.seconds,
            loss=evaluation.loss,
            perplexity=evaluation.perplexity,
            bits_per_byte=evaluation.bits_per_byte,
            curve=tuple(result.curve),
        )
        _write_record(job, folder, record)
        shutil.rmtree(state, ignore_errors=True)
    except Diverged as diverged:
        raise StarError(f"the training diverged: {diverged}; lower --learning-rate") from None
    except OSError as error:
        raise StarError(
            f"{str(folder)!r} cannot be written ({error.strerror or error}); choose another --out"
        ) from None
    return record


def _require_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        available = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise StarError(f"{device!r} is no device of this machine; there is {', '.join(available)}") from None


def _write_record(job: Job, folder: Path, record: Record | None) -> None:
    result = None if record is None else {**vars(record), "curve": [list(point) for point in record.curve]}
    text = json.dumps({"format": FORMAT, "settings": job.settings, "result": result}, indent=2)
    temporary = folder / HALF_WRITTEN
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, folder / RECORD_FILE)


def _differences(saved: Any, own: Any, name: str = "") -> list[str]:
    """Dotted names of the settings in which two trainings differ, with both values."""
    if isinstance(saved, dict) and isinstance(own, dict) and name != "pool":
        keys = sorted(saved.keys() | own.keys())
        return [
            text
            for key in keys
            for text in _differences(saved.get(key), own.get(key), f"{name}.{key}" if name else key)
        ]
    if saved == own:
        return []
    return ["another option pool"] if name == "pool" else [f"{name} was {saved!r}, is {own!r}"]
