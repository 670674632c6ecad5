"""A real search that mutates inside classes, killed and continued, and every command on what it found."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import SMALL, Star

from star.errors import StarError

MORE = ("--extend", "operators", "--generations", "4", "--population", "6", "--seed", "5")
COMMAND = "from star.cli import main; main()"


def evolving(run: Path, text: Path, *more: str) -> subprocess.Popen[bytes]:
    arguments = ["evolve", "demo", "--run", str(run), "--data", str(text), *SMALL, *MORE, *more]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        env=os.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def facts(star: Star, *arguments: object) -> dict:
    answer = star(*map(str, arguments), "--json")
    assert answer.status == 0, answer.err
    return json.loads(answer.out)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, text: Path) -> tuple[Path, Path]:
    """One run from start to end with one worker; the same one with two, killed three times on the way."""
    folder = tmp_path_factory.mktemp("inside")
    whole, killed = folder / "whole", folder / "killed"
    assert evolving(whole, text, "--workers", "1").wait(300) == 0
    from star.synthesis import Run, Status

    for count in (3, 8, 12):
        process = evolving(killed, text, "--workers", "2")
        while process.poll() is None:
            time.sleep(0.02)
            if (killed / "run.db").exists():
                try:
                    with Run.open(killed) as run:
                        done = sum(candidate.status is not Status.PENDING for candidate in run.candidates)
                except (StarError, sqlite3.Error):  # it is being made
                    continue
                if done >= count:
                    process.kill()
                    break
        process.wait()
    assert evolving(killed, text, "--workers", "2").wait(300) == 0
    return whole, killed


@pytest.fixture(scope="module")
def derived(runs: tuple[Path, Path]) -> str:
    """RUN:CANDIDATE with a derived class."""
    from star.genome import BackboneGenome
    from star.synthesis import Run

    with Run.open(runs[0]) as run:
        found = [c.name for c in run.candidates if any(s.liv > 1000 for s in BackboneGenome.parse(c.canonical))]
    return f"{runs[0]}:{found[-1]}"


def test_a_killed_search_ends_like_an_undisturbed_one(star: Star, runs: tuple[Path, Path]) -> None:
    whole, killed = (facts(star, "inspect", run) for run in runs)
    assert whole["derived"]
    assert whole == killed


def test_a_candidate_shows_its_derived_classes(star: Star, derived: str) -> None:
    found = facts(star, "inspect", derived)
    new = {row["id"]: row["name"] for row in found["derived"]}
    assert new
    assert {row["class"]: row["name"] for row in found["livs"] if row["class"] > 1000} == new
    text = star("inspect", derived).out
    assert all(f"class {liv} is {name}: operator " in text for liv, name in new.items())


def test_a_candidate_is_trained_and_its_checkpoint_needs_nothing_else(star: Star, derived: str, tmp_path: Path) -> None:
    trained = star("train", derived, "--tokens", "4096", "--threads", "1", "--out", tmp_path / "model")
    assert trained.status == 0, trained.err
    assert facts(star, "inspect", tmp_path / "model")["derived"] == facts(star, "inspect", derived)["derived"]
    written = star("generate", tmp_path / "model", "the ", "--max-tokens", "20", "--seed", "1")
    assert written.status == 0, written.err
    assert len(written.out) > 3


def test_a_candidate_is_scaled_and_trained_from_the_classes_that_are_written(
    star: Star, derived: str, tmp_path: Path
) -> None:
    pool = tmp_path / "pool.toml"
    told = star("scale", derived, "--stack", "2")
    assert "--write-pool" in told.out
    scaled = facts(star, "scale", derived, "--stack", "2", "--write-pool", pool)
    found = facts(star, "inspect", scaled["scaled"]["genome"], "--pool", pool, "--width", "32", "--length", "256")
    assert found["parameters"] == scaled["scaled"]["parameters"]
    assert found["derived"] == scaled["scaled"]["derived"]


def test_a_run_is_compared_reported_and_analysed(star: Star, runs: tuple[Path, Path], tmp_path: Path) -> None:
    run = runs[0]
    assert [each["name"] for each in facts(star, "compare", run)["baselines"]] == ["transformer++", "striped-mamba"]
    assert star("report", run, "--out", tmp_path / "report.html").status == 0
    names = {row["name"] for row in facts(star, "inspect", run)["derived"]}
    counted = {name for row in facts(star, "analyse", run)["generations"] for name in row["classes"]}
    assert counted & names, "derived classes are counted by name"


def test_a_lineage_goes_through_derived_classes(star: Star, derived: str) -> None:
    answer = star("lineage", derived, "--json")
    assert answer.status == 0, answer.err
    assert len(json.loads(answer.out)) > 1


def test_a_front_with_derived_classes_begins_another_search(
    star: Star, runs: tuple[Path, Path], text: Path, tmp_path: Path
) -> None:
    command = ("evolve", "demo", "--run", tmp_path / "next", "--data", text, *SMALL, "--seed-from", runs[0])
    for _ in range(2):  # the same command goes on
        answer = star(*command)
        assert answer.status == 0, answer.err
    found = facts(star, "inspect", tmp_path / "next")
    front = facts(star, "inspect", runs[0])["population"]
    genomes = " ".join(each["genome"] for each in front if each["on_front"])
    carried = {row["id"] for row in found["recipe"]["model"]["classes"]}
    assert carried == {row["id"] for row in facts(star, "inspect", runs[0])["derived"] if f"{row['id']}." in genomes}
