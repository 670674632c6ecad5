"""`star ablate` runs a search for each condition, continues them, and sets their fronts side by side."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from small_runs import SMALL, Star, interrupted

from star.synthesis import Ablation, Recipe, Run

CONDITIONS = ("standard", "residual")


def command(run: Path, text: Path, *more: str) -> list[str]:
    """The paper's ablation at a size of seconds."""
    budget = ["--batch-tokens", "1024", "--tokenizer", "bytes", "--workers", "1"]
    return ["ablate", "residual-ablation", "--run", str(run), "--data", str(text), *SMALL, *budget, *more]


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A finished ablation; the tests must not change it."""
    from star.cli import main

    path = tmp_path_factory.mktemp("ablation") / "all"
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "argv", ["star", *command(path, text)])
    with patch.context(), pytest.raises(SystemExit) as end:
        main()
    patch.undo()
    assert end.value.code in (0, None)
    return path


def test_every_condition_is_a_run_like_any_other(star: Star, ablated: Path, tmp_path: Path) -> None:
    extensions = []
    for name in CONDITIONS:
        with Run.open(ablated / name) as run:
            assert run.state.value == "finished"
            extensions.append(run.recipe.model.extend)
        assert star("report", ablated / name, "--out", tmp_path / f"{name}.html").status == 0
        assert star("evolve", "--run", ablated / name).status == 0
    assert extensions == [(), ("residual",)]
    shown = json.loads(star("inspect", f"{ablated / 'residual'}:3", "--json").out)
    assert shown["extensions"] == ["residual"]


def test_the_table_sets_the_fronts_side_by_side(star: Star, ablated: Path, text: Path) -> None:
    facts = json.loads(star(*command(ablated, text, "--json")).out)
    answer = star(*command(ablated, text))
    assert max(map(len, answer.out.splitlines()[:-1])) <= 80
    assert [row["condition"] for row in facts["conditions"]] == list(CONDITIONS)
    assert [row["settings"] for row in facts["conditions"]] == [{}, {"model.extend": ["residual"]}]
    for row in facts["conditions"]:
        with Run.open(ablated / row["condition"]) as run:
            assert row["candidates"] == len(run.candidates)
            assert row["best_perplexity"] == min(candidate.perplexity for candidate in run.front)
            assert row["fewest_parameters"] == min(candidate.parameters for candidate in run.front)
        (line,) = [line for line in answer.out.splitlines() if line.startswith(row["condition"])]
        assert f"{row['best_perplexity']:.3f}" in line
        assert f"{row['hypervolumes'][-1]:.3f}" in line


def test_progress_names_the_conditions_on_stderr_alone(star: Star, ablated: Path, text: Path) -> None:
    answer = star(*command(ablated, text, "--json"))
    assert "condition standard (1 of 2)" in answer.err
    assert "condition residual (2 of 2)" in answer.err
    assert "candidate 1:" not in answer.err, "nothing is trained twice"
    json.loads(answer.out)


def test_the_options_of_a_search_change_all_conditions(
    star: Star, monkeypatch: pytest.MonkeyPatch, text: Path, tmp_path: Path
) -> None:
    seen: list[Recipe] = []

    class Stop(Exception):
        pass

    def record(ablation: Ablation, **_: object) -> None:
        seen.extend(ablation.recipes.values())
        raise Stop

    monkeypatch.setattr("star.synthesis.ablate", record)
    options = ("--constraints", "parameters<=2e6", "--surrogate")
    for more in ("--halving", "--asynchronous"):
        with pytest.raises(Stop):
            star("ablate", "residual-ablation", "--data", text, *options, more)
    assert all(recipe.search.constraints == ("parameters<=2000000",) for recipe in seen)
    assert all(recipe.surrogate is not None for recipe in seen)
    assert [recipe.halving is not None for recipe in seen] == [True, True, False, False]
    assert [recipe.search.mode.value for recipe in seen] == ["generational"] * 2 + ["steady-state"] * 2
    assert all(recipe.training.schedule == "trapezoid" for recipe in seen[:2])
    own = tmp_path / "own.toml"
    own.write_text(
        Recipe.load("demo").to_toml()
        + '[ablation.with]\n"halving.rungs" = 2\n"training.schedule" = "trapezoid"\n[ablation.without]\n'
    )
    answer = star("ablate", own, "--halving")
    assert answer.status == 2
    assert "the condition 'with' has a halving.rungs, training.schedule of its own" in answer.err


def test_a_condition_in_which_nothing_is_feasible_has_a_row(star: Star, text: Path, tmp_path: Path) -> None:
    bounded = command(tmp_path / "all", text, "--constraints", "perplexity<=1.5")
    answer = star(*bounded)
    assert answer.status == 0
    (facts, _) = json.loads(star(*bounded, "--json").out)["conditions"]
    assert (facts["best_perplexity"], facts["fewest_parameters"]) == (None, None)
    assert facts["hypervolumes"][-1] == 0


def test_an_interruption_names_the_command_that_continues(tmp_path: Path, text: Path) -> None:
    status, err = interrupted(*command(tmp_path / "all", text, "--tokens", "4000000"))
    assert status == 130
    assert err.splitlines()[-1].startswith("Interrupted; no result is lost: `star ablate residual-ablation --run ")
    assert "Traceback" not in err
    with Run.open(tmp_path / "all" / "standard") as run:
        assert run.state.value == "interrupted"


def test_without_a_directory_each_recipe_and_setting_has_its_own(
    star: Star, monkeypatch: pytest.MonkeyPatch, text: Path
) -> None:
    seen: list[Path] = []

    class Stop(Exception):
        pass

    def record(*_: object, run: Path, **__: object) -> None:
        seen.append(run)
        raise Stop

    monkeypatch.setattr("star.synthesis.ablate", record)
    for more in ([], ["--generations", "3"], ["--seed", "1"]):
        with pytest.raises(Stop):
            star("ablate", "residual-ablation", "--data", text, *more)
    assert seen[0].parent == Path("runs")
    assert seen[0].name.startswith("residual-ablation-")
    assert seen[0] == seen[1] != seen[2]
