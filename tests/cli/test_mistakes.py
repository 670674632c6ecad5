"""A mistake of the user ends in one sentence on stderr and status 2, never in a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["fly"], "No such command 'fly'"),
        (["inspect", "nothing"], "neither a genome"),
        (["inspect", "11111 9111"], "'9111' is not 5 non-negative integers"),
        (["inspect", "11111 99111"], "99"),
        (["inspect", "77777"], "invalid"),
        (["inspect", "11111 91111", "--depth", "3"], "has 2 LIVs, not 3"),
        (["inspect", "23.1.1.1.1", "--pool", "paper"], "class 23 is not in pool 'paper'"),
        (["inspect", "99.1.1.1.1"], "class 99 is not in pool 'extended'"),
        (["inspect", "11111", "--pool", "pond"], "pools are paper, extended, none"),
        (["inspect", "11111", "--extend", "wings"], "'wings' names no extension"),
        (["inspect", "1.1.1.1.1.1", "--pool", "paper"], "does not have the extension 'residual'"),
        (["inspect", "0.1.1.1.1", "--pool", "extended"], "extend the pool by 'depth'"),
        (["inspect", "transformer++", "--pool", "paper"], "--pool must be left out"),
        (["inspect", "transformer++", "--depth", "0"], "at least 1"),
        (["inspect", "transformer++", "--width", "30"], "width 30"),
        (["inspect", "transformer++", "--length", "0"], "--length is 0"),
        (["inspect", "transformer++", "--width", "wide"], "--width"),
        (["inspect", "."], "holds no run"),
        (["evolve", "no-such-recipe"], "neither a recipe nor a file"),
        (["evolve", "demo", "--objectives", "beauty"], "'beauty' is no objective"),
        (["evolve", "demo", "--objectives", "perplexity@3"], "takes no length"),
        (["evolve", "demo", "--population", "1"], "population"),
        (["evolve", "demo", "--pool", "pond"], "'pond' is neither an option pool nor a file"),
        (["evolve", "demo", "--pool", "none"], "nothing but own LIV classes"),
        (["evolve", "demo", "--extend", "routing"], "routing chooses between paths"),
        (["evolve", "residual-ablation"], "run it with `star ablate`"),
        (["ablate", "demo"], "two or more conditions"),
        (["ablate", "no-such-recipe"], "neither a recipe nor a file"),
        (["ablate", "residual-ablation", "--extend", "depth"], "has a model.extend of its own"),
        (["ablate", "residual-ablation", "--width", "0"], "model.width"),
        (["scale", "11111", "--stack", "0"], "stacked at least once"),
        (["scale", "11111", "--stack", "5000"], "at most 4096"),
        (["scale", "11111", "--width", "30"], "width 30"),
        (["scale", "11111", "--from-width", "30", "--width", "64"], "width 30"),
        (["scale", "11111", "--stack", "2", "--length", "0"], "--length is 0"),
        (["scale", "11111"], "nothing to scale"),
        (["scale", "striped-mamba", "--stack", "2", "--extend", "paths"], "--extend must be left out"),
        (["train", "deformer", "--pool", "extended"], "--pool must be left out"),
        (["evolve", "demo", "--tokens", "1"], "does not pay for one step"),
        (["evolve", "demo", "--data", "no/such/text"], "no/such/text"),
        (["evolve", "demo", "--tokenizer", "gpt"], "'gpt' names no tokenizer"),
        (["evolve", "demo", "--workers", "0"], "worker"),
        (["train", "nothing"], "neither a genome"),
        (["train", "11111", "--tokens", "100"], "lower --length"),
        (["train", "11111", "--tokens", "2048", "--batch-tokens", "4096"], "--batch-tokens"),
        (["train", "11111", "--tokens", "-5"], "tokens"),
        (["compare", "no-such-run", "--workers", "0"], "worker"),
        (["train", "11111", "--learning-rate", "-1"], "peak_learning_rate"),
        (["train", "11111", "--device", "abacus"], "'abacus' is no device"),
        (["train", "11111", "--threads", "0"], "threads"),
        (["generate", "no-such-folder", "text"], "is no checkpoint"),
        (["generate", "no-such-folder", "text", "--max-tokens", "0"], "--max-tokens is 0"),
        (["compare", "no-such-run"], "is no run"),
        (["report", "no-such-run"], "is no run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_told_in_one_sentence(
    star, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: Path, arguments: list[str], part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0] in ("evolve", "train") and "--data" not in arguments:
        arguments = [*arguments, "--data", str(text)]
    answer = star(*arguments)
    errors = [line for line in answer.err.splitlines() if line.startswith("Error: ")]
    assert answer.status == 2
    assert len(errors) == 1
    assert answer.err.splitlines()[-1] == errors[0]
    assert part in errors[0]
    assert answer.out == ""


def test_a_candidate_that_a_run_lacks_is_told(star, finished_run: Path) -> None:
    answer = star("inspect", f"{finished_run}:99")
    assert answer.status == 2
    assert "'99' is no candidate" in answer.err


def test_settings_of_architectures_mean_nothing_for_a_run(star, finished_run: Path) -> None:
    for option in ("--depth", "--width", "--length"):
        answer = star("inspect", finished_run, option, "8")
        assert answer.status == 2
        assert f"{option} belongs to genomes, presets and candidates" in answer.err


def test_no_workers_are_refused_before_a_run_is_made(star, tmp_path: Path) -> None:
    answer = star("evolve", "demo", "--run", tmp_path / "run", "--workers", "0")
    assert answer.status == 2
    assert "run directory" not in answer.err
    assert not (tmp_path / "run").exists()


def test_training_a_whole_run_asks_for_a_candidate(star, finished_run: Path) -> None:
    answer = star("train", finished_run)
    assert answer.status == 2
    assert f"{finished_run}:1" in answer.err


def test_an_unexpected_error_keeps_its_traceback(star, monkeypatch: pytest.MonkeyPatch) -> None:
    from star.cli import targets

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(targets, "resolve", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        star("inspect", "11111")


@pytest.mark.parametrize("command", [["inspect"], ["train"], ["scale", "--stack", "2"]], ids=" ".join)
def test_a_candidate_keeps_the_pool_of_its_run(star, finished_run: Path, command: list[str]) -> None:
    for option, value in (("--pool", "paper"), ("--extend", "paths")):
        answer = star(*command, f"{finished_run}:1", option, value)
        assert answer.status == 2
        assert f"{option} must be left out" in answer.err
