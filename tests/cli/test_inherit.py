"""`star evolve --inherit`: what the commands say about tokens of lineages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_runs import evolve_small

from star.synthesis import Run


@pytest.fixture(scope="module")
def inheriting_run(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    path = tmp_path_factory.mktemp("inheriting") / "run"
    evolve_small(path, text, "--inherit")
    return path


def test_lineages_and_candidates_tell_the_tokens_behind_them(star, inheriting_run: Path) -> None:
    with Run.open(inheriting_run) as run:
        assert run.recipe.inheritance is not None
        heir = next(each for each in run.candidates if each.inherited_tokens)
    assert (heir.tokens, heir.lineage_tokens) == (4096, 8192)
    target = f"{inheriting_run}:{heir.name}"
    assert "trained on 4,096 tokens, with its inheritance 8,192" in " ".join(star("inspect", target).out.split())
    assert "with its inheritance" not in star("inspect", f"{inheriting_run}:1").out
    table = star("lineage", target).out
    assert "with inheritance" in " ".join(table.split())
    assert "8,192" in table
    facts = json.loads(star("lineage", target, "--json").out)
    assert [(each["tokens"], each["lineage_tokens"]) for each in facts[:2]] == [(4096, 8192), (4096, 4096)]
    (candidate,) = [json.loads(star("inspect", target, "--json").out)["candidate"]]
    assert (candidate["tokens"], candidate["lineage_tokens"]) == (4096, 8192)


def test_a_comparison_says_that_baselines_inherit_nothing(star, inheriting_run: Path, finished_run: Path) -> None:
    out = " ".join(star("compare", inheriting_run).out.split())
    with Run.open(inheriting_run) as run:
        most = max(each.lineage_tokens for each in run.front)
        assert all(baseline.lineage_tokens == baseline.tokens == 4096 for baseline in run.baselines.values())
    note = (
        "Candidates begin with trained weights of their parents, the baselines from scratch: on the front, candidates "
        f"were trained on up to 4,096 tokens themselves, and on up to {most:,} with what they inherited."
    )
    assert note in out
    assert "the baselines trained on 4,096 tokens" in out
    assert json.loads(star("compare", inheriting_run, "--json").out)["inheritance"] == note
    report = inheriting_run.parent / "report.html"
    assert star("report", inheriting_run, "--out", report).status == 0
    assert note in report.read_text()


def test_a_run_without_inheritance_says_nothing_of_it(star, finished_run: Path) -> None:
    for command in ("inspect", "lineage"):
        assert "inherit" not in star(command, f"{finished_run}:7").out
