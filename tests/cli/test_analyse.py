"""`star analyse` and `star lineage` on a real run, and searches with a time limit and with a front to begin with."""

from __future__ import annotations

import json
from pathlib import Path

from small_runs import SMALL, Star

from star.synthesis import Run


def test_analyse_counts_the_livs_of_every_generation(star: Star, finished_run: Path) -> None:
    found = json.loads(star("analyse", finished_run, "--json").out)
    assert [row["generation"] for row in found["generations"]] == [1, 2]
    assert all(abs(sum(row["classes"].values()) - 4) < 1e-9 for row in found["generations"]), "4 LIVs in each backbone"
    shown = star("analyse", finished_run)
    assert shown.status == 0
    for text in ("LIVs of each class", "pairs that share weights", "Motifs of the"):
        assert text in shown.out


def test_lineage_leads_back_to_the_first_generation(star: Star, finished_run: Path) -> None:
    with Run.open(finished_run) as run:
        child = next(candidate for candidate in run.candidates if candidate.parents)
    found = json.loads(star("lineage", f"{finished_run}:{child.name}", "--json").out)
    assert found[0]["name"] == child.name
    assert set(found[0]["changed"]) == set(child.parents) < {each["name"] for each in found}
    assert found[-1]["parents"] == []
    assert f"Lineage of candidate {child.name}" in star("lineage", f"{finished_run}:{child.name}").out
    assert "RUN:CANDIDATE" in star("lineage", str(finished_run).replace(":", "")).err
    assert "no candidate" in star("lineage", f"{finished_run}:99").err


def test_a_search_stops_at_its_time_and_goes_on(star: Star, text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped = star("evolve", "demo", "--data", text, "--run", run, *SMALL, "--workers", "1", "--budget", "0.001s")
    assert stopped.status == 0
    assert "continues the run" in stopped.err
    with Run.open(run) as found:
        assert found.state.value == "interrupted"
    assert star("evolve", "--run", run).status == 0
    with Run.open(run) as found:
        assert found.state.value == "finished"
    assert "write it as 90s" in star("evolve", "demo", "--budget", "soon").err


def test_a_search_begins_with_the_front_of_another(star: Star, text: Path, finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    static = [*SMALL[:-1], "parameters,cache_bytes@256"]
    assert star("evolve", "demo", "--data", text, "--run", run, *static, "--seed-from", finished_run).status == 0
    with Run.open(finished_run) as old, Run.open(run) as new:
        front = [candidate.digest for candidate in old.front]
        assert [candidate.digest for candidate in new.candidates][: len(front)] == front
    deeper = star("evolve", "demo", "--depth", "6", "--seed-from", finished_run, "--run", tmp_path / "other")
    assert "search.initial has a genome of 4 LIVs" in deeper.err
