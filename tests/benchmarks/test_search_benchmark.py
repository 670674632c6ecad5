"""The search benchmark: tokens to a volume, equal tokens, where time goes, what foretells, and the CSV."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import search as benchmark
import search_timing as timing
from search_correlations import Correlation, correlation_summary, correlations
from star.synthesis import Candidate, Recipe, Run
from star.synthesis.events import (
    CandidateFinished,
    CandidateStarted,
    CandidateStep,
    CorpusReady,
    Event,
    GenerationFinished,
    GenerationStarted,
    SearchStarted,
)

FAKE = "benchmark_fakes:learning"


def rows(condition: str, *points: tuple[int, float]) -> list:
    return [
        benchmark.Row(condition, 0, generation, 0, tokens, 0.0, volume, volume)
        for generation, (tokens, volume) in enumerate(points, start=1)
    ]


def test_tokens_are_those_of_the_first_generation_that_is_there(tmp_path: Path) -> None:
    paper = rows("paper", (1_000_000, 0.5), (2_000_000, 0.99), (3_000_000, 1.0))
    halving = rows("halving", (1_000_000, 0.5), (1_200_000, 0.98), (1_400_000, 1.1))
    poor = rows("poor", (1_000_000, 0.5))
    assert benchmark.tokens_to(halving, 0.98) == 1_200_000
    table = benchmark.summary([*paper, *halving, *poor])
    assert "| paper | 1.000 | 2.00M | 1.00 (1 of 1 seeds) |" in table
    assert "| halving | 1.100 | 1.20M | 0.60 (1 of 1 seeds) |" in table
    assert "| poor | 0.500 | never | – |" in table
    benchmark.write(tmp_path / "new" / "rows.csv", paper, ["protocols", "--seeds", "0"])
    command, head, first, *_ = (tmp_path / "new" / "rows.csv").read_text().splitlines()
    assert command == "# python benchmarks/search.py protocols --seeds 0"
    assert head.startswith("condition,seed,generation")
    assert first.startswith("paper,0,1,0,1000000")


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STAR_CACHE", str(tmp_path / "cache"))
    rng = random.Random(0)
    path = tmp_path / "text.txt"
    path.write_text(" ".join(rng.choices(["a", "search", "among", "architectures"], k=20_000)))
    return path


def test_conditions_differ_from_the_first_in_what_their_name_says() -> None:
    base = Recipe.load("demo").override({"search.population": 16, "search.generations": 8})
    recipes = {
        name: base.override(settings(base) if callable(settings) else settings)
        for question, conditions in benchmark.CONDITIONS.items()
        for name, settings in conditions.items()
        if question in ("settings", "asynchronous")
    }
    paper = recipes["paper"].search
    assert (paper.population, paper.generations, paper.crossover_points, paper.mutation) == (16, 8, 2, 0.1)
    wide = recipes["twice the population in half the generations"].search
    assert (wide.population, wide.generations, wide.elites) == (32, 4, 4)
    assert recipes["paper"].differences(recipes["one cut point"]) == ["search.crossover_points"]
    assert recipes["paper"].differences(recipes["mutation 0.2"]) == ["search.mutation"]
    assert recipes["generational"].differences(recipes["steady state"]) == ["search.mode"]


def candidate(name: str, **facts: Any) -> Candidate:
    return Candidate(name, "11111", "11111", name, 0, generation=1, **facts)


def test_equal_tokens_leave_out_what_goes_beyond() -> None:
    candidates = [candidate(str(number), tokens=10) for number in range(5)]
    assert benchmark.up_to(candidates, 35) == candidates[:3]
    assert benchmark.up_to(candidates, None) == candidates


def timeline() -> list[tuple[float, Event]]:
    """Two workers, three candidates: a start of 2 s, text 3 s, workers 1 s, and a gap of half a second at each end."""
    one, two, three, four = (candidate(str(number)) for number in (1, 2, 3, 4))
    report: Any = None
    return [
        (2.0, SearchStarted(Path("run"), Recipe.load("demo"), 2, 0)),
        (5.0, CorpusReady("a book", 900, 100)),
        (5.5, GenerationStarted(1, (one, two, three))),
        (6.0, CandidateStarted(one, 1)),
        (6.0, CandidateStarted(two, 1)),
        (7.0, CandidateStep(one, report)),
        (9.0, CandidateStep(one, report)),
        (10.0, CandidateFinished(one)),
        (10.5, CandidateStarted(three, 1)),
        (11.0, CandidateFinished(two)),
        (14.0, CandidateFinished(three)),
        (14.0, GenerationFinished(1, (), 0.0)),
        (14.5, GenerationStarted(2, (four,))),
        (14.5, CandidateStarted(four, 1)),
        (19.5, CandidateFinished(four)),
        (20.0, GenerationFinished(2, (), 0.0)),
    ]


def test_time_is_divided_by_what_the_search_does() -> None:
    found = {phase.name: phase for phase in timing.phases(timeline(), began=0.0, ended=20.0, workers=2)}
    nothing = {name: phase.seconds for name, phase in found.items() if name.startswith("no trial runs: ")}
    assert nothing == {
        "no trial runs: start-up": 2.0,
        "no trial runs: text": 3.0,
        "no trial runs: first worker": 1.0,
        "no trial runs: between trials": 0.5,
        "no trial runs: end": 0.5,
    }
    assert found["no trial runs, in all"].share == 7 / 20
    train, wait, barrier = (found[name] for name in found if name.startswith("workers "))
    assert (train.seconds, wait.seconds, barrier.seconds) == (4 + 5 + 3.5 + 5, 0.5, 3.0 + 5.0)
    assert train.seconds + wait.seconds + barrier.seconds == 2 * (20 - 7)
    assert [found[f"in trials: {part}"].seconds for part in ("until the first step", "in steps")] == [1.0, 2.0]
    assert found["in trials: after the last step"].seconds == 1.0
    assert found["wall time"].seconds == 20


def test_wall_time_goes_on_over_interruptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(timing.time, "monotonic", lambda: now)
    first, one = timing.Wall(tmp_path / "wall.json"), candidate("1")
    first(SearchStarted(Path("run"), Recipe.load("demo"), 2, 0))
    now = 110.0
    first(CandidateStarted(one, 1))
    now = 113.0
    first(CandidateFinished(one))
    again = timing.Wall(tmp_path / "wall.json")
    now = 200.0
    again(CandidateStarted(one, 1))
    now = 202.0
    again(GenerationFinished(1, (), 0.0))
    now = 210.0
    last = timing.Wall(tmp_path / "wall.json")
    last(GenerationFinished(1, (), 0.0))
    assert last.generations == {"1": 5.0}


def test_correlations_are_those_of_one_set_of_genomes(text: Path, tmp_path: Path) -> None:
    base = Recipe.load("demo").override(
        {"data.source": str(text), "model.depth": 4, "training.tokens": 16384, "search.population": 6}
    )
    rows = correlations(base, 3, tmp_path / "runs", workers=2, trial=FAKE)
    found = {(row.measure, row.tokens): row.correlation for row in rows}
    assert list(found) == [*(("perplexity at a rung", tokens) for tokens in (2048, 4096, 8192)), ("mad error", 16384)]
    assert list(found.values()) == pytest.approx([-1, -1, 1, -1])
    assert all(row.candidates == 6 for row in rows)
    with Run.open(tmp_path / "runs" / "rungs-3") as rungs, Run.open(tmp_path / "runs" / "mad-3") as mad:
        assert [each.digest for each in rungs.candidates] == [each.digest for each in mad.candidates]
    assert correlations(base, 3, tmp_path / "runs", workers=2, trial="nowhere:nothing") == rows, "found, not trained"
    table = correlation_summary([*rows, Correlation("mad error", 16384, 4, 2, None)])
    assert "| mad error | 16,384 | 6, 2 | -1.00, – |" in table
