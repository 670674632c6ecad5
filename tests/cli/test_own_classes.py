"""A search over own LIV classes, from a TOML recipe to text, by way of every command that names a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from small_runs import Star

PROJECTION = "1.1.1.1.2.1.1"
RECIPE = f"""
[model]
depth = 4
width = 32
pool = "paper"

[[model.classes]]
id = 18
name = "SWA"
operator = "12223"
featurizer = "{PROJECTION} {PROJECTION} {PROJECTION}"
strategies = [["k"], ["v"], ["k", "v"]]
window = 32

[[model.classes]]
id = 5
name = "ReLU-A"
operator = "12133"
featurizer = "{PROJECTION} {PROJECTION} {PROJECTION}"

[data]
source = "TEXT"

[training]
tokens = 4096
batch_tokens = 1024
warmup_tokens = 1024
length = 64
validation_tokens = 1024

[search]
objectives = ["perplexity", "parameters", "cache_bytes@256"]
population = 8
generations = 2
"""


@pytest.fixture(scope="module")
def own_run(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A finished search over the paper's pool with a sliding window beside it and a class in place of Rec-1."""
    from star.cli import main

    folder = tmp_path_factory.mktemp("own")
    (folder / "own.toml").write_text(RECIPE.replace("TEXT", str(text)))
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "argv", ["star", "evolve", str(folder / "own.toml"), "--run", str(folder / "run")])
    with patch.context(), pytest.raises(SystemExit) as end:
        main()
    patch.undo()
    assert end.value.code in (0, None)
    return folder / "run"


def candidate_with(run: Path, liv: int) -> str:
    from star.genome import BackboneGenome
    from star.synthesis import Run

    with Run.open(run) as opened:
        return next(
            candidate.name
            for candidate in opened.candidates
            if any(segment.liv == liv for segment in BackboneGenome.parse(candidate.canonical))
        )


def test_a_run_tells_its_classes(star: Star, own_run: Path) -> None:
    assert "[[model.classes]]" in star("inspect", own_run).out
    facts = json.loads(star("inspect", own_run, "--json").out)
    assert [row["name"] for row in facts["recipe"]["model"]["classes"]] == ["SWA", "ReLU-A"]


@pytest.mark.parametrize(("liv", "name"), [(18, "SWA"), (5, "ReLU-A")])
def test_a_candidate_has_the_classes_of_its_run(star: Star, own_run: Path, liv: int, name: str) -> None:
    facts = json.loads(star("inspect", f"{own_run}:{candidate_with(own_run, liv)}", "--json").out)
    rows = [row for row in facts["livs"] if row["class"] == liv]
    assert rows
    assert {row["name"] for row in rows} == {name}


def test_a_window_is_all_that_the_cache_holds(star: Star, own_run: Path) -> None:
    target = f"{own_run}:{candidate_with(own_run, 18)}"
    short, long = (
        {row["index"]: row["cache_bytes"] for row in json.loads(answer.out)["livs"] if row["class"] == 18}
        for answer in (star("inspect", target, "--json", "--length", length) for length in ("64", "4096"))
    )
    assert short == long


def test_a_candidate_of_own_classes_is_trained_and_writes(star: Star, own_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    target = f"{own_run}:{candidate_with(own_run, 18)}"
    trained = star("train", target, "--tokens", "4096", "--threads", "1", "--out", out)
    assert trained.status == 0, trained.err
    written = star("generate", out, "the ", "--max-tokens", "80", "--seed", "1")  # past the window
    assert written.status == 0, written.err
    assert len(written.out) > 10


def test_a_run_over_own_classes_is_compared_and_reported(star: Star, own_run: Path, tmp_path: Path) -> None:
    compared = star("compare", own_run, "--json")
    assert compared.status == 0, compared.err
    facts = json.loads(compared.out)
    assert [baseline["name"] for baseline in facts["baselines"]] == ["transformer++", "striped-mamba"]
    report = star("report", own_run, "--out", tmp_path / "report.html")
    assert report.status == 0, report.err
    assert "[[model.classes]]" in (tmp_path / "report.html").read_text()


def test_the_run_goes_on_with_its_own_recipe(star: Star, own_run: Path) -> None:
    assert star("evolve", "--run", own_run).status == 0
    other = own_run.parent / "other.toml"
    other.write_text((own_run.parent / "own.toml").read_text().replace("window = 32", "window = 16"))
    refused = star("evolve", other, "--run", own_run)
    assert refused.status == 2
    assert "model.classes" in refused.err


def test_a_class_without_meaning_is_told_in_one_sentence(star: Star, own_run: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text((own_run.parent / "own.toml").read_text().replace("12223", "13223"))
    answer = star("evolve", tmp_path / "bad.toml", "--run", tmp_path / "run")
    assert answer.status == 2
    assert "'SWA'" in answer.err
    assert "Toeplitz" in answer.err
    assert not (tmp_path / "run").exists()
