"""`star compare` trains the baselines like the candidates and says plainly who wins; `star report` writes files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_runs import evolve_small

from star.synthesis import Run


@pytest.fixture(scope="session")
def compared_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from star.synthesis import compare

    path = tmp_path_factory.mktemp("compared") / "small"
    shutil.copytree(finished_run, path)
    compare(path, workers=1).close()
    return path


def test_comparing_trains_both_baselines_and_keeps_them(star, finished_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(finished_run, path)
    first = star("compare", path, "--workers", "1")
    assert first.status == 0
    with Run.open(path) as run:
        assert set(run.baselines) == {"transformer++", "striped-mamba"}
        assert {len(baseline.curve) for baseline in run.baselines.values()} == {len(run.candidate(1).curve)}
    second = star("compare", path)
    assert second.out == first.out
    assert "perplexity" not in second.err, "nothing is trained twice"


def test_a_run_without_a_population_is_refused_before_anything_is_trained(star, tmp_path: Path) -> None:
    from star.synthesis import Recipe
    from star.synthesis.store import Store

    path = tmp_path / "begun"
    with Store.create(path) as store:
        store.put_facts(recipe=Recipe.load("demo").model_dump_json())
    answer = star("compare", path)
    assert answer.status == 2
    assert "no population yet" in answer.err
    with Run.open(path) as run:
        assert run.baselines == {}


def test_tables_fit_and_show_front_and_baselines(star, compared_run: Path) -> None:
    out = star("compare", compared_run).out
    with Run.open(compared_run) as run:
        for candidate in [*run.front, *run.baselines.values()]:
            assert any(line.split()[:2] == [candidate.name, f"{candidate.perplexity:.3f}"] for line in out.splitlines())
    tables = out.split("\n\n")[:-1]
    assert max(len(line) for table in tables for line in table.splitlines()) <= 80
    assert "…" not in out, "no figure is cut off"


def test_the_verdict_on_each_baseline_follows_from_the_figures(star, compared_run: Path) -> None:
    facts = json.loads(star("compare", compared_run, "--json").out)
    text = star("compare", compared_run).out
    names = facts["objectives"]
    for verdict, baseline in zip(facts["verdicts"], facts["baselines"], strict=True):
        winners = set()
        for candidate in facts["candidates"]:
            ours, theirs = ([row["scores"][name] for name in names] for row in (candidate, baseline))
            dominates = ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))
            if dominates:
                winners.add(candidate["name"])
            change = candidate["difference"][baseline["name"]]["perplexity"]
            assert change == pytest.approx(candidate["perplexity"] / baseline["perplexity"] - 1)
        assert set(verdict["dominating"]) == winners
        assert verdict["beaten"] == bool(winners)
        assert verdict["sentence"] in text
        assert ("No candidate beats" in verdict["sentence"]) != bool(winners)


def test_a_search_without_training_is_compared_in_its_objectives_only(star, text: Path, tmp_path: Path) -> None:
    evolve_small(tmp_path / "run", text, "--objectives", "parameters")
    answer = star("compare", tmp_path / "run", "--workers", "1")
    assert answer.status == 0, answer.err
    verdicts = [line for line in answer.out.splitlines() if "in every objective" in line]
    assert len(verdicts) == 2
    assert not any("perplexity" in line for line in verdicts)
    assert all("which was no objective, cache" in line for line in verdicts if "is beaten" in line)
    with Run.open(tmp_path / "run") as run:
        assert not any(baseline.curve for baseline in run.baselines.values())


def test_the_report_is_written_into_the_run_and_its_path_told(star, compared_run: Path) -> None:
    answer = star("report", compared_run)
    assert answer.out.strip() == str(compared_run / "report.html")
    assert (compared_run / "report.html").read_text().startswith("<!doctype html>")


def test_the_report_goes_where_it_is_asked_to(star, compared_run: Path, tmp_path: Path) -> None:
    assert star("report", compared_run, "--out", tmp_path / "deep" / "mine.html").status == 0
    assert (tmp_path / "deep" / "mine.html").stat().st_size > 1_000_000, "plotly is inside"
    assert star("report", compared_run, "--out", tmp_path / "front.svg").status == 0
    assert (tmp_path / "front.svg").read_text().startswith("<svg")


def test_a_report_that_cannot_be_written_is_a_mistake(star, compared_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = star("report", compared_run, "--out", tmp_path / "file" / "report.html")
    assert answer.status == 2
    assert "cannot be written" in answer.err
