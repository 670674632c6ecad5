from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_model import TinyModel
from torch import Tensor

import star.training.checkpoint
from star.data import TokenizedCorpus
from star.errors import StarError
from star.training import CheckpointPolicy, StepReport, TrainingRecipe, TrainingResult, train


class Killed(BaseException):
    """Stands for the end of the process."""


def kill_after(step: int) -> object:
    def on_step(report: StepReport) -> None:
        if report.step == step:
            raise Killed

    return on_step


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def undisturbed(corpus: TokenizedCorpus, recipe: TrainingRecipe) -> tuple[dict[str, Tensor], TrainingResult]:
    model = TinyModel()
    result = train(model, corpus, recipe, seed=3)
    return state(model), result


@pytest.mark.parametrize("kills", [[1], [4], [7], [19], [5, 6, 13, 14]])
def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(
    corpus: TokenizedCorpus, recipe: TrainingRecipe, checkpoints: Path, kills: list[int]
) -> None:
    policy = CheckpointPolicy(checkpoints, every_tokens=64 * 3)
    for step in kills:
        with pytest.raises(Killed):
            train(TinyModel(), corpus, recipe, seed=3, checkpoint=policy, on_step=kill_after(step))  # type: ignore[arg-type]
    model = TinyModel(seed=99)  # the initial weights do not matter any more (unless it was killed before the first)
    if kills == [1]:
        model = TinyModel()
    result = train(model, corpus, recipe, seed=3, checkpoint=policy)
    weights, expected = undisturbed(corpus, recipe)
    assert_same(state(model), weights)
    assert result.curve == expected.curve
    assert result.final_loss == expected.final_loss


def test_only_steps_after_the_last_checkpoint_are_trained_again(
    corpus: TokenizedCorpus, recipe: TrainingRecipe, checkpoints: Path
) -> None:
    policy = CheckpointPolicy(checkpoints, every_tokens=64 * 4)
    with pytest.raises(Killed):
        train(TinyModel(), corpus, recipe, seed=3, checkpoint=policy, on_step=kill_after(11))  # type: ignore[arg-type]
    assert [path.name for path in checkpoints.iterdir()] == ["step-000000008"]
    reports: list[StepReport] = []
    train(TinyModel(), corpus, recipe, seed=3, checkpoint=policy, on_step=reports.append)
    assert [report.step for report in reports] == list(range(9, 21))


def test_a_finished_training_is_not_trained_again(
    corpus: TokenizedCorpus, recipe: TrainingRecipe, checkpoints: Path
) -> None:
    policy = CheckpointPolicy(checkpoints, every_tokens=10**9)
    first, second = TinyModel(), TinyModel()
    done = train(first, corpus, recipe, seed=3, checkpoint=policy)
    again = train(second, corpus, recipe, seed=3, checkpoint=policy, on_step=lambda _: pytest.fail("trained"))
    assert_same(state(first), state(second))
    assert again.curve == done.curve


def test_a_process_killed_while_it_saves_leaves_the_older_checkpoint(
    corpus: TokenizedCorpus, recipe: TrainingRecipe, checkpoints: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from tiny_model import TinyModel\n"
        "from star.data import TokenizedCorpus\n"
        "from star.training import CheckpointPolicy, TrainingRecipe, train\n"
        "rename = Path.rename\n"
        "def killing_rename(self, target):\n"
        "    if Path(target).name == 'step-000000009':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return rename(self, target)\n"
        "Path.rename = killing_rename\n"
        f"corpus = TokenizedCorpus.open({str(corpus.path)!r})\n"
        f"recipe = TrainingRecipe.model_validate_json({recipe.model_dump_json()!r})\n"
        f"policy = CheckpointPolicy(Path({str(checkpoints)!r}), every_tokens=64 * 3)\n"
        "train(TinyModel(), corpus, recipe, seed=3, checkpoint=policy)\n"
    )
    killed = subprocess.run([sys.executable, str(script)], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert "step-000000006" in {path.name for path in checkpoints.iterdir()}
    model = TinyModel(seed=99)
    train(model, corpus, recipe, seed=3, checkpoint=CheckpointPolicy(checkpoints, every_tokens=64 * 3))
    assert_same(state(model), undisturbed(corpus, recipe)[0])
    assert [path.name for path in checkpoints.iterdir()] == ["step-000000020"]


def test_a_checkpoint_of_another_training_is_refused(
    corpus: TokenizedCorpus, recipe: TrainingRecipe, checkpoints: Path
) -> None:
    policy = CheckpointPolicy(checkpoints, every_tokens=64)
    train(TinyModel(), corpus, recipe, seed=3, checkpoint=policy)
    with pytest.raises(StarError, match=r"another training .seed was 3, is 4"):
        train(TinyModel(), corpus, recipe, seed=4, checkpoint=policy)
    with pytest.raises(StarError, match=r"recipe\.clip was 1\.0, is 2\.0"):
        train(TinyModel(), corpus, recipe.replace(clip=2), seed=3, checkpoint=policy)
    wider = TinyModel()
    wider.extra = torch.nn.Linear(2, 2)
    with pytest.raises(StarError, match=r"another model .*'extra\.bias'"):
        train(wider, corpus, recipe, seed=3, checkpoint=policy)
    # How it will be evaluated is no part of a training.
    train(TinyModel(), corpus, recipe.replace(validation_tokens=5), seed=3, checkpoint=policy)


def test_a_checkpoint_from_before_a_setting_was_there_has_its_default(
    corpus: TokenizedCorpus, recipe: TrainingRecipe, checkpoints: Path
) -> None:
    policy = CheckpointPolicy(checkpoints, every_tokens=64 * 3)
    with pytest.raises(Killed):
        train(TinyModel(), corpus, recipe, seed=3, checkpoint=policy, on_step=kill_after(7))  # type: ignore[arg-type]
    (facts,) = checkpoints.glob("*/training.json")
    data = json.loads(facts.read_text())
    del data["identity"]["recipe"]["compile"], data["identity"]["recipe"]["schedule"]
    del data["identity"]["recipe"]["matmul"]
    facts.write_text(json.dumps(data))
    with pytest.raises(StarError, match=r"recipe\.compile was False, is True"):
        train(TinyModel(), corpus, recipe.replace(compile=True), seed=3, checkpoint=policy)
    model = TinyModel()
    train(model, corpus, recipe, seed=3, checkpoint=policy)
    assert_same(state(model), undisturbed(corpus, recipe)[0])


@pytest.mark.parametrize("name", ["training.json", "model.safetensors", "optimizer.safetensors"])
def test_a_damaged_checkpoint_is_named(
    corpus: TokenizedCorpus, recipe: TrainingRecipe, checkpoints: Path, name: str
) -> None:
    policy = CheckpointPolicy(checkpoints, every_tokens=10**9)
    train(TinyModel(), corpus, recipe, seed=3, checkpoint=policy)
    (checkpoints / "step-000000020" / name).write_bytes(b"{")
    with pytest.raises(StarError, match=r"step-000000020 is damaged .*delete it"):
        train(TinyModel(), corpus, recipe, seed=3, checkpoint=policy)


def test_a_checkpoint_that_cannot_be_written_is_named(
    corpus: TokenizedCorpus, recipe: TrainingRecipe, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(star.training.checkpoint, "save_file", full)
    with pytest.raises(StarError, match=r"step-000000001 cannot be written .*No space left"):
        train(TinyModel(), corpus, recipe, seed=3, checkpoint=CheckpointPolicy(checkpoints, every_tokens=1))


def test_checkpoints_are_due_once_for_every_multiple() -> None:
    policy = CheckpointPolicy(Path("x"), every_tokens=100)
    due = [policy.is_due(before, before + 30) for before in range(0, 300, 30)]
    assert due == [False, False, False, True, False, False, True, False, False, True]
    with pytest.raises(StarError, match="every_tokens = 0"):
        CheckpointPolicy(Path("x"), every_tokens=0)


def trapezoid(recipe: TrainingRecipe, tokens: int) -> TrainingRecipe:
    return recipe.replace(schedule="trapezoid", tokens=tokens, warmup_tokens=128)


def test_a_training_in_rungs_ends_like_one_in_a_single_go(
    corpus: TokenizedCorpus, recipe: TrainingRecipe, checkpoints: Path
) -> None:
    policy = CheckpointPolicy(checkpoints)
    losses = []
    for tokens in (320, 640, 1280):  # 5, 10 and 20 steps; their decays begin after 4, 8 and 16
        model, steps = TinyModel(), []
        result = train(
            model,
            corpus,
            trapezoid(recipe, tokens),
            seed=3,
            checkpoint=policy,
            on_step=lambda report, steps=steps: steps.append(report.step),  # type: ignore[misc]
        )
        whole, expected = undisturbed(corpus, trapezoid(recipe, tokens))
        assert_same(state(model), whole)
        assert result.curve == expected.curve
        losses.append((steps[0], steps[-1]))
    assert losses == [(1, 5), (5, 10), (9, 20)], "each goes on from before the decay of the one before"


def test_a_rung_that_was_killed_anywhere_is_repeated_from_the_checkpoint_before(
    corpus: TokenizedCorpus, recipe: TrainingRecipe, checkpoints: Path
) -> None:
    policy = CheckpointPolicy(checkpoints)
    train(TinyModel(), corpus, trapezoid(recipe, 320), seed=3, checkpoint=policy)
    for step in (6, 15, 18):  # before the decay, twice, and in it
        with pytest.raises(Killed):
            train(
                TinyModel(),
                corpus,
                trapezoid(recipe, 1280),
                seed=3,
                checkpoint=policy,
                on_step=kill_after(step),  # type: ignore[arg-type]
            )
    model = TinyModel()
    train(model, corpus, trapezoid(recipe, 1280), seed=3, checkpoint=policy)
    assert_same(state(model), undisturbed(corpus, trapezoid(recipe, 1280))[0])
    with pytest.raises(StarError, match="raise tokens"):
        train(TinyModel(), corpus, trapezoid(recipe, 640), seed=3, checkpoint=policy)
    other = trapezoid(recipe, 1280).replace(peak_learning_rate=1e-3)
    with pytest.raises(StarError, match="peak_learning_rate"):
        train(TinyModel(), corpus, other, seed=3, checkpoint=policy)
    with pytest.raises(StarError, match="schedule = 'trapezoid'"):
        train(TinyModel(), corpus, recipe, seed=3, checkpoint=policy)
