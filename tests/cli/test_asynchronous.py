"""A search in steady state on the command line: every command takes its run, and it says how to go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_runs import SMALL, Star, evolve_small

from star.synthesis import Run


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    path = tmp_path_factory.mktemp("runs") / "steady"
    evolve_small(path, text, "--asynchronous", "--workers", "2", "--batch-tokens", "1024")
    return path


def test_every_command_takes_the_run(star: Star, steady: Path, tmp_path: Path) -> None:
    with Run.open(steady) as run:
        assert (run.recipe.search.mode, run.generations, len(run.candidates)) == ("steady-state", 2, 6)
        child = next(candidate.name for candidate in run.candidates if candidate.parents)
    shown = json.loads(star("inspect", steady, "--json").out)
    assert shown["generations"] == 2
    assert len(json.loads(star("analyse", steady, "--json").out)["generations"]) == 2
    assert star("lineage", f"{steady}:{child}").status == 0
    assert star("report", steady, "--out", tmp_path / "report.html").status == 0
    assert star("compare", steady).status == 0
    again = star("evolve", "--run", steady)
    assert again.status == 0
    assert "generation 2 done" in again.err
    assert "Front of generation 2" in again.out


def test_progress_has_a_line_for_each_candidate_and_generation(star: Star, text: Path, tmp_path: Path) -> None:
    command = ["evolve", "demo", "--run", tmp_path / "run", "--data", text, *SMALL, "--asynchronous", "--workers", "2"]
    answer = star(*command)
    assert answer.status == 0
    lines = answer.err.splitlines()
    assert sum(line.startswith("[") for line in lines) == 6
    assert [line for line in lines if "candidates to train" in line] == ["generation 1: 4 of 4 candidates to train"]
    assert "generation 1 done" in answer.err
    assert star("evolve", "--run", tmp_path / "run", "--halving").status == 2


def test_a_search_in_which_nothing_keeps_to_the_constraints_is_shown_as_such(
    star: Star, text: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    evolve_small(run, text, "--constraints", "perplexity<=1.5", "--batch-tokens", "1024")
    with Run.open(run) as found:
        assert found.front == []
        assert found.reference is not None
    for command in ("inspect", "analyse", "evolve --run", "compare"):
        answer = star(*command.split(), run)
        assert answer.status in (0, 2), command
        assert "Traceback" not in answer.err
    assert "no candidate keeps to perplexity<=1.5 yet" in answer.err
    assert star("report", run, "--out", tmp_path / "report.html").status == 0
    assert "no candidate keeps to all constraints" in (tmp_path / "report.html").read_text().lower()
