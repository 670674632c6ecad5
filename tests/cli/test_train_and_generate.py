"""`star train` writes a checkpoint and continues exactly; `star generate` streams text from it."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import Star

from star.cli import job, progress
from star.cli import train as command
from star.cli.job import Job, train_job
from star.cli.targets import resolve_architecture
from star.cli.writing import pieces
from star.data import ByteTokenizer, DataRecipe, Tokenizer, prepare
from star.genome import OptionPool
from star.lm import LanguageModel
from star.synthesis import Recipe
from star.training import StepReport, TrainingRecipe
from star.training import train as train_model
from star.training.replicas import Replicas

GENOME = "21111 91111 61111"
STAR = (sys.executable, "-c", "from star.cli import main; main()")
SETTINGS = ("--width", "32", "--length", "32", "--tokens", "8192", "--batch-tokens", "1024", "--threads", "1")


def train(star: Star, text: Path, out: Path, *more: str):
    return star("train", GENOME, "--data", text, *SETTINGS, "--out", out, *more)


@pytest.fixture
def replicas(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many each training computed at a time."""
    counts: list[int] = []

    class Counted(Replicas):
        def __init__(self, count: int, threads: int) -> None:
            counts.append(count)
            super().__init__(count, threads)

    monkeypatch.setattr("star.training.loop.Replicas", Counted)
    return counts


@contextmanager
def progress_of(steps: list[int]) -> Iterator[None]:
    """Notes the number of each step that a command takes."""

    @contextmanager
    def noting(name: str) -> Iterator[object]:
        yield lambda report: steps.append(report.step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "training_progress", noting)
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    from star.cli import main

    out = tmp_path_factory.mktemp("checkpoint") / "model"
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "argv", ["star", "train", GENOME, "--data", str(text), *SETTINGS, "--out", str(out)])
    with pytest.raises(SystemExit) as end:
        main()
    patch.undo()
    assert not end.value.code
    return out


def test_a_checkpoint_is_complete(checkpoint: Path) -> None:
    model, tokenizer = LanguageModel.load(checkpoint), Tokenizer.load(checkpoint)
    assert str(model.config.genome) == GENOME
    assert (model.config.width, model.config.length, model.config.vocab_size) == (32, 32, tokenizer.vocab_size)
    record = json.loads((checkpoint / "training.json").read_text())
    assert [tokens for tokens, _ in record["result"]["curve"]] == [1024 * step for step in range(1, 9)]
    assert record["settings"]["training"]["tokens"] == record["result"]["tokens"] == 8192
    assert not (checkpoint / "unfinished").exists()


def test_the_perplexity_told_is_that_of_the_saved_model(star, checkpoint: Path, text: Path) -> None:
    from star.evaluation import perplexity

    model = LanguageModel.load(checkpoint)
    record = json.loads((checkpoint / "training.json").read_text())
    corpus = prepare(DataRecipe(source=str(text)))
    tokens = record["settings"]["training"]["validation_tokens"]
    measured = perplexity(model, corpus.validation, length=32, tokens=tokens).perplexity
    assert measured == pytest.approx(record["result"]["perplexity"], rel=1e-6)
    answer = train(star, text, checkpoint)
    assert f"perplexity {measured:.3f}" in answer.out


def test_a_finished_training_is_not_repeated(star, checkpoint: Path, text: Path) -> None:
    before = (checkpoint / "model.safetensors").stat().st_mtime_ns
    answer = train(star, text, checkpoint)
    assert answer.status == 0
    assert "finished already" in answer.err
    assert (checkpoint / "model.safetensors").stat().st_mtime_ns == before


def test_a_training_whose_pool_was_written_with_fewer_fields_is_the_same(
    star, checkpoint: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    shutil.copytree(checkpoint, out)
    record = json.loads((out / "training.json").read_text())
    del record["settings"]["pool"]["extensions"]
    for row in record["settings"]["pool"]["classes"]:
        del row["state_space"]
    (out / "training.json").write_text(json.dumps(record))
    assert "finished already" in train(star, text, out).err


def test_a_record_that_a_kill_left_half_written_does_not_bar_the_folder(star, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    out.mkdir()
    (out / ".training.json").write_text('{"for')
    assert train(star, text, out).status == 0
    assert not (out / ".training.json").exists()


def test_a_state_that_a_kill_left_beside_a_finished_training_is_removed(star, checkpoint: Path, text: Path) -> None:
    (checkpoint / "unfinished").mkdir()
    assert "finished already" in train(star, text, checkpoint).err
    assert not (checkpoint / "unfinished").exists()


def test_a_budget_below_the_batch_of_the_recipe_takes_smaller_steps(star, text: Path, tmp_path: Path) -> None:
    settings = ("--width", "32", "--length", "64", "--tokens", "2048", "--threads", "1")
    answer = star("train", GENOME, "--data", text, *settings, "--out", tmp_path / "model")
    assert answer.status == 0, answer.err
    training = json.loads((tmp_path / "model" / "training.json").read_text())["settings"]["training"]
    assert (training["tokens"], training["batch_tokens"]) == (2048, 256)


def test_threads_compute_parts_of_a_batch_side_by_side(
    star, text: Path, tmp_path: Path, replicas: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two halves of a batch on two threads give the weights that they give one after the other."""
    from star import evaluation

    threads: list[int] = []
    measure = evaluation.perplexity

    def perplexity(*model: Any, **settings: Any) -> Any:
        threads.append(torch.get_num_threads())
        return measure(*model, **settings)

    monkeypatch.setattr(evaluation, "perplexity", perplexity)
    assert star("train", GENOME, "--data", text, *SHORTER, "--threads", "2", "--out", tmp_path / "two").status == 0
    training = json.loads((tmp_path / "two" / "training.json").read_text())["settings"]["training"]
    assert (training["threads"], training["micro_batch_tokens"]) == (1, 512)
    assert (replicas, threads) == ([2], [2])

    model = LanguageModel.from_genome(
        GENOME, pool=OptionPool.paper(), width=32, vocab_size=ByteTokenizer().vocab_size, length=32, seed=0
    )
    corpus = prepare(DataRecipe(source=str(text)), length=32)
    train_model(model, corpus, TrainingRecipe.model_validate(training), seed=0)
    trained = LanguageModel.load(tmp_path / "two")
    for found, expected in zip(trained.parameters(), model.parameters(), strict=True):
        assert torch.equal(found, expected)


SHORTER = ("--width", "32", "--length", "32", "--tokens", "4096", "--batch-tokens", "1024")


def shorter_job(text: Path, **training: Any) -> Job:
    """What `train` with `SHORTER` begins on one thread, and changes of its recipe."""
    settings = {"tokens": 4096, "batch_tokens": 1024, "length": 32, "threads": 1, **training}
    recipe = Recipe.load("default").override(
        {"data.source": str(text), "model.width": 32, **{f"training.{name}": value for name, value in settings.items()}}
    )
    architecture = resolve_architecture(GENOME, depth=None, preset_depth=8, pool=None, extend=None)
    return command._job(architecture, recipe, seed=0)


def unfinished(text: Path, out: Path, **training: Any) -> Job:
    """A training as another machine left it after three steps."""
    job = shorter_job(text, **training)

    def stop(report: StepReport) -> None:
        if report.step == 3:
            raise KeyboardInterrupt

    corpus = prepare(job.data, length=32)
    with pytest.raises(KeyboardInterrupt):
        train_job(job, corpus, out, device="cpu", threads=1, replicas=1, on_step=stop)
    return job


@pytest.mark.parametrize(
    ("threads", "micro", "here", "at_a_time"), [(2, None, 1, 1), (2, None, 7, 1), (1, 256, 1, 1), (1, 256, 3, 3)]
)
def test_other_threads_continue_a_training_as_it_was_begun(
    star, text: Path, tmp_path: Path, replicas: list[int], threads: int, micro: int | None, here: int, at_a_time: int
) -> None:
    out = tmp_path / "model"
    job = unfinished(text, out, threads=threads, micro_batch_tokens=micro)
    seen: list[int] = []
    with progress_of(seen):
        answer = star("train", GENOME, "--data", text, *SHORTER, "--threads", str(here), "--out", out)
    assert answer.status == 0, answer.err
    assert f"as it was begun: {micro or 1024:,} tokens at a time, on {threads} thread(s)" in answer.err
    assert seen[0] > 1
    assert replicas == [1, at_a_time]
    record = json.loads((out / "training.json").read_text())
    assert record["settings"] == json.loads(json.dumps(job.settings))

    undisturbed = tmp_path / "undisturbed"
    train_job(job, prepare(job.data, length=32), undisturbed, device="cpu", threads=1, replicas=1)
    found, expected = (LanguageModel.load(folder) for folder in (out, undisturbed))
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: "",
        lambda record: record[: len(record) // 2],
        lambda record: "[]",
        lambda record: '{"format": 1}',
        lambda record: record.replace('"threads": 1', '"threads": "many"'),
        lambda record: record.replace('"training": {', '"training": 7, "other": {'),
        lambda record: record.replace('"loss": ', '"lost": '),
        lambda record: record.replace('"curve": [', '"curve": [7, '),
        lambda record: record.replace('"curve": [', '"curve": [[Infinity, 1.0], '),
        lambda record: re.sub('"loss": [0-9.]+', '"loss": null', record),
        lambda record: re.sub('"tokens": [0-9]+(?=,\n +"seconds|, "seconds)', '"tokens": "ten"', record),
    ],
)
def test_a_damaged_record_is_told(star, checkpoint: Path, text: Path, tmp_path: Path, damage) -> None:
    out = tmp_path / "model"
    shutil.copytree(checkpoint, out)
    before = (out / "training.json").read_text()
    (out / "training.json").write_text(damage(before))
    assert (out / "training.json").read_text() != before
    answer = train(star, text, out)
    assert answer.status == 2
    assert answer.err.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in answer.err


def test_a_checkpoint_without_a_name_is_continued_by_any_machine(
    star, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is named after the training, not after threads; one that was named with them is found."""
    folders: list[Path] = []

    def record(asked: Job, corpus: object, folder: Path, **_: object) -> None:
        folders.append(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr("star.cli.job.train_job", record)
    monkeypatch.chdir(tmp_path)
    for threads in ("1", "2", "7"):
        star("train", GENOME, "--data", text, *SHORTER, "--threads", threads)
    star("train", GENOME, "--data", text, *SHORTER, "--seed", "1")
    assert folders[0] == folders[1] == folders[2] != folders[3]
    assert folders[0].parent == Path("checkpoints")

    settings = json.dumps(shorter_job(text, threads=2).settings, sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
    old = folders[0].with_name(f"{folders[0].name[:-8]}{digest}")
    old.mkdir(parents=True)
    for threads in ("2", "1"):
        star("train", GENOME, "--data", text, *SHORTER, "--threads", threads)
    assert folders[4:] == [old, folders[0]]


@pytest.mark.parametrize(
    ("width", "device", "tied", "parts"),
    [("32", "cpu", True, 8), ("512", "cpu", True, 4), ("512", "cpu", False, 2), ("32", "cuda", True, 1)],
)
def test_batches_are_cut_for_the_cpu_as_far_as_gradients_fit(
    monkeypatch: pytest.MonkeyPatch, width: str, device: str, tied: bool, parts: int
) -> None:
    recipe = Recipe.load("default").override(
        {"model.width": width, "model.tie_embeddings": tied, "training.batch_tokens": 8192}
    )
    architecture = resolve_architecture(GENOME, depth=None, preset_depth=8, pool=None, extend=None)
    whole = command._job(architecture, recipe, seed=0)
    monkeypatch.setattr(job, "GRADIENT_BYTES", 4 * 4 * 40_000_000)
    cut = job.side_by_side(whole, 8, device).training
    assert math.ceil(cut.batch_size / cut.micro_batch_size) == parts


def test_no_more_replicas_run_than_gradients_fit(
    star, text: Path, tmp_path: Path, replicas: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though another machine, with more memory, cut the batch into more parts."""
    out = tmp_path / "model"
    unfinished(text, out, threads=1, micro_batch_tokens=128)
    monkeypatch.setattr(job, "GRADIENT_BYTES", 2 * 4 * 40_000)
    assert star("train", GENOME, "--data", text, *SHORTER, "--threads", "8", "--out", out).status == 0
    parameters = sum(one.numel() for one in LanguageModel.load(out).parameters())
    assert 2 * 40_000 // parameters == 2
    assert replicas == [1, 2]


def test_an_interrupted_training_continues_to_the_same_weights(
    star, checkpoint: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    @contextmanager
    def interrupting(name: str) -> Iterator[object]:
        def step(report) -> None:
            steps.append(report.step)
            if len(steps) == 5:
                raise KeyboardInterrupt

        yield step

    monkeypatch.setattr(progress, "training_progress", interrupting)
    out = tmp_path / "model"
    first = train(star, text, out)
    assert first.status == 130
    assert "the same command continues" in first.err
    assert not (out / "model.safetensors").exists()
    second = train(star, text, out)
    assert second.status == 0, second.err
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]
    undisturbed, continued = LanguageModel.load(checkpoint).tensors(), LanguageModel.load(out).tensors()
    assert all(torch.equal(undisturbed[name], continued[name]) for name in undisturbed)


@pytest.mark.parametrize("times", [1, 3])
def test_ctrl_c_ends_a_training_in_replicas_with_one_sentence(text: Path, tmp_path: Path, times: int) -> None:
    """In a terminal, which interrupts a whole group of processes, however often it is pressed."""
    out = tmp_path / "model"
    settings = ("--width", "256", "--length", "1024", "--tokens", "131072", "--batch-tokens", "65536")
    training = subprocess.Popen(
        [*STAR, "train", GENOME, "--data", text, *settings, "--threads", "2", "--out", out],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (out / "training.json").exists():
        assert training.poll() is None
        time.sleep(0.1)
    time.sleep(3)  # a part takes ten
    for _ in range(times):
        with suppress(ProcessLookupError):
            os.killpg(training.pid, signal.SIGINT)
        time.sleep(0.02)
    _, said = training.communicate(timeout=120)
    assert training.returncode == 130
    assert said.rstrip().splitlines()[-1].startswith("Interrupted; the same command continues")
    assert "Traceback" not in said


@pytest.mark.parametrize("change", [("--learning-rate", "0.1"), ("--seed", "1"), ("--tokens", "9216")], ids=" ".join)
def test_a_folder_of_another_training_is_refused(star, checkpoint: Path, text: Path, change: tuple[str, str]) -> None:
    answer = train(star, text, checkpoint, *change)
    assert answer.status == 2
    assert "holds another training" in answer.err


def test_a_folder_with_other_files_is_refused(star, text: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    answer = train(star, text, tmp_path)
    assert answer.status == 2
    assert "holds something else" in answer.err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_candidate_is_trained_as_its_run_says(star, finished_run: Path, tmp_path: Path, text: Path) -> None:
    out = tmp_path / "longer"
    answer = star("train", f"{finished_run}:1", "--tokens", "6144", "--threads", "1", "--out", out)
    assert answer.status == 0, answer.err
    settings = json.loads((out / "training.json").read_text())["settings"]
    assert settings["data"]["source"] == str(text)
    assert (settings["width"], settings["training"]["length"], settings["training"]["tokens"]) == (32, 32, 6144)
    facts = json.loads(star("inspect", f"{finished_run}:1", "--json").out)
    assert settings["genome"] == facts["canonical"]


def test_without_a_budget_training_takes_ten_times_that_of_the_search(
    star, finished_run: Path, monkeypatch, tmp_path
) -> None:
    from star.cli import job

    seen = []

    def record(asked, corpus, folder, **_):
        seen.append(asked)
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "train_job", record)
    monkeypatch.chdir(tmp_path)
    assert star("train", f"{finished_run}:2").status == 130
    assert seen[0].training.tokens == 10 * 4096


def generate(star: Star, checkpoint: Path, *more: str) -> str:
    answer = star("generate", checkpoint, "the ", *more)
    assert answer.status == 0, answer.err
    return answer.out


def test_a_seed_decides_the_text(star, checkpoint: Path) -> None:
    first = generate(star, checkpoint, "--seed", "1", "--max-tokens", "40")
    assert first == generate(star, checkpoint, "--seed", "1", "--max-tokens", "40")
    assert first != generate(star, checkpoint, "--seed", "2", "--max-tokens", "40")


def test_greedy_text_is_the_likeliest_continuation(star, checkpoint: Path) -> None:
    model, tokenizer = LanguageModel.load(checkpoint), Tokenizer.load(checkpoint)
    tokens = tokenizer.encode("the ")
    for _ in range(12):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    expected = tokenizer.decode(tokens[4:])
    assert generate(star, checkpoint, "--greedy", "--max-tokens", "12") == expected + "\n"
    assert generate(star, checkpoint, "--top-k", "1", "--max-tokens", "12") == expected + "\n"


def test_a_dash_reads_the_prompt_from_standard_input(star, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("the "))
    answer = star("generate", checkpoint, "-", "--greedy", "--max-tokens", "12")
    assert answer.out == generate(star, checkpoint, "--greedy", "--max-tokens", "12")


def test_an_empty_prompt_begins_a_document(star, checkpoint: Path) -> None:
    answer = star("generate", checkpoint, "", "--seed", "0", "--max-tokens", "5")
    assert answer.status == 0
    assert answer.out != "\n"


def test_text_is_told_as_soon_as_a_character_is_complete() -> None:
    stream = (torch.tensor([byte]) for byte in "aé".encode())
    parts = pieces(stream, ByteTokenizer())
    assert next(parts) == "a"
    assert list(parts) == ["", "é", ""]
