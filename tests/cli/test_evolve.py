"""`star evolve` turns its options into a recipe, continues runs, and can be interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import SMALL, evolve_small, interrupted

from star.cli import options
from star.synthesis import Recipe, Run


def recipe_of(monkeypatch: pytest.MonkeyPatch, star, *arguments: str) -> tuple[Recipe, Path, int | None]:
    """The recipe, run directory and workers that a command line asks for; nothing is searched."""
    seen: list[tuple[Recipe, Path, int | None]] = []

    class Stop(Exception):
        pass

    def record(recipe: Recipe, *, run: Path, workers: int | None, listener: object, budget: float | None) -> None:
        seen.append((recipe, run, workers))
        raise Stop

    monkeypatch.setattr("star.synthesis.evolve", record)
    with pytest.raises(Stop):
        star("evolve", *arguments)
    return seen[0]


def test_every_option_reaches_the_search(monkeypatch: pytest.MonkeyPatch, star) -> None:
    recipe, run, workers = recipe_of(
        monkeypatch,
        star,
        *(
            "demo",
            "--run",
            "here",
            "--data",
            "some.txt",
            "--tokenizer",
            "bpe:512",
            "--objectives",
            "perplexity,parameters",
        ),
        *("--population", "6", "--generations", "5", "--depth", "10", "--width", "96", "--length", "128"),
        *("--tokens", "123456", "--batch-tokens", "2048", "--seed", "7", "--workers", "3"),
        *("--pool", "extended", "--extend", "depth,paths"),
        *("--constraints", "parameters<=2e6, flops@64>=1", "--halving", "--surrogate", "--inherit"),
    )
    assert recipe.search.constraints == ("parameters<=2000000", "flops@64>=1")
    assert recipe.halving is not None
    assert recipe.surrogate is not None
    assert recipe.inheritance is not None
    assert recipe.training.schedule == "trapezoid"
    assert (run, workers) == (Path("here"), 3)
    assert (recipe.data.source, recipe.data.tokenizer) == ("some.txt", "bpe:512")
    assert recipe.search.objectives == ("perplexity", "parameters")
    assert (recipe.search.population, recipe.search.generations, recipe.search.seed) == (6, 5, 7)
    assert (recipe.model.depth, recipe.model.width) == (10, 96)
    assert (recipe.training.length, recipe.training.tokens) == (128, 123456)
    assert recipe.training.batch_tokens == 2048
    assert (recipe.model.pool, recipe.model.extend) == ("extended", ("paths", "depth"))


def test_asynchronous_is_steady_state_and_does_not_go_with_halving(monkeypatch: pytest.MonkeyPatch, star) -> None:
    assert recipe_of(monkeypatch, star, "demo")[0].search.mode == "generational"
    assert recipe_of(monkeypatch, star, "demo", "--asynchronous", "--surrogate")[0].search.mode == "steady-state"
    answer = star("evolve", "demo", "--asynchronous", "--halving")
    assert answer.status == 2
    assert "leave out one of the two" in answer.err


def test_without_options_the_recipe_is_the_default_one(monkeypatch: pytest.MonkeyPatch, star) -> None:
    assert recipe_of(monkeypatch, star)[0] == Recipe.load("default")


def test_a_recipe_file_is_taken(monkeypatch: pytest.MonkeyPatch, star, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(Recipe.load("demo").override({"search.seed": 11}).to_toml())
    recipe, run, _ = recipe_of(monkeypatch, star, str(mine))
    assert recipe.search.seed == 11
    assert run.name.startswith("mine-")


def test_the_default_directory_depends_on_the_settings_and_nothing_else(monkeypatch: pytest.MonkeyPatch, star) -> None:
    plain = recipe_of(monkeypatch, star, "demo")[1]
    assert plain.parent == Path("runs")
    assert plain.name.startswith("demo-")
    assert recipe_of(monkeypatch, star, "demo", "--workers", "5")[1] == plain
    assert recipe_of(monkeypatch, star, "demo", "--generations", "9")[1] == plain, "more generations extend a run"
    assert recipe_of(monkeypatch, star, "demo", "--seed", "1")[1] != plain


def test_the_front_is_told_as_a_table(star, finished_run: Path) -> None:
    answer = star("evolve", "--run", finished_run)  # finished: nothing is trained
    assert answer.status == 0
    assert max(map(len, answer.out.splitlines()[:-1])) <= 80
    with Run.open(finished_run) as run:
        assert f"{len(run.front)} of {len(run.candidates)} candidates" in answer.out
        for candidate in run.front:
            assert f"{candidate.perplexity:.3f}" in answer.out
            assert candidate.canonical in " ".join(answer.out.split())
    assert f"star compare {finished_run}" in answer.out
    assert "\x1b" not in answer.out + answer.err


def test_more_generations_extend_a_run_with_its_own_recipe(star, tmp_path: Path, text: Path) -> None:
    path = tmp_path / "run"
    evolve_small(path, text, "--generations", "1", "--objectives", "parameters")
    answer = star("evolve", "--run", path, "--generations", "3", "--workers", "1")
    assert answer.status == 0
    with Run.open(path) as run:
        assert run.generations == 3
        assert run.recipe.model.width == 32
        assert run.state.value == "finished"


def test_another_recipe_for_an_existing_run_is_refused(star, finished_run: Path) -> None:
    answer = star("evolve", "--run", finished_run, "--width", "64")
    assert answer.status == 2
    assert "model.width" in answer.err


def test_progress_goes_to_stderr_one_line_for_each_candidate(star, tmp_path: Path, text: Path) -> None:
    answer = star("evolve", "demo", "--run", tmp_path / "run", "--data", text, *SMALL, "--generations", "1")
    lines = answer.err.splitlines()
    for place in range(1, 5):
        (line,) = [line for line in lines if line.startswith(f"[{place}/4] ")]
        assert "perplexity" in line
    assert not any(line.startswith("[") for line in answer.out.splitlines())


def test_interrupting_names_the_command_that_continues(tmp_path: Path, text: Path) -> None:
    path = tmp_path / "a run"
    more = ["--data", str(text), *SMALL, "--tokens", "4000000", "--workers", "1"]
    status, err = interrupted("evolve", "demo", "--run", str(path), *more)
    assert status == 130
    assert err.splitlines()[-1] == f"Interrupted; no result is lost: `star evolve --run '{path}'` continues the run."
    assert "Traceback" not in err
    with Run.open(path) as run:
        assert run.state.value == "interrupted"
        assert all(candidate.failure is None for candidate in run.candidates)


def test_a_run_name_ignores_how_many_generations_there_are() -> None:
    recipe = Recipe.load("demo")
    longer = recipe.override({"search.generations": 99})
    assert options.default_run("demo", recipe) == options.default_run("demo", longer)
    assert options.default_run("dir/mine.toml", recipe).name.startswith("mine-")
