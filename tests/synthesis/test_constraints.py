"""Constraints and measured objectives in a search: what is never trained, what is in no front, what workers measure."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from star.data import prepare
from star.errors import StarError
from star.genome import BackboneGenome
from star.synthesis import Recipe, Run, Status, evolve
from star.synthesis.objectives import Architecture
from star.synthesis.run import reference_point
from star.synthesis.trial import Trial, TrialFailed, train_candidate

SCORE = "synthesis_fakes:without_failures"


def test_static_constraints_are_decided_before_training(recipe: Recipe, tmp_path: Path) -> None:
    free = evolve(recipe, run=tmp_path / "free", workers=2, trial=SCORE)
    bound = sorted(candidate.parameters for candidate in free.candidates)[len(free.candidates) // 2]
    assert any(candidate.parameters > bound for candidate in free.candidates)
    bounded = recipe.override({"search.constraints": f"parameters<={bound}, cache_bytes@64>=1"})
    run = evolve(bounded, run=tmp_path / "bounded", workers=2, trial=SCORE)
    assert all(candidate.parameters <= bound and candidate.cache_bytes >= 1 for candidate in run.candidates)
    assert len(run.candidates) == len(free.candidates)
    assert all(c.scores["parameters"] == c.parameters for c in run.candidates), "what is bounded is told"


def test_what_breaks_a_trained_constraint_is_done_and_in_no_front(recipe: Recipe, tmp_path: Path) -> None:
    bounded = recipe.override({"search.constraints": "perplexity<=15"})
    run = evolve(bounded, run=tmp_path, workers=2, trial=SCORE)
    broken = [candidate for candidate in run.candidates if (candidate.perplexity or 0) > 15]
    assert broken
    assert all(c.status is Status.DONE and c.violated == ("perplexity<=15",) for c in broken)
    assert run.front
    assert all((candidate.perplexity or 0) <= 15 for candidate in run.front)
    feasible = [candidate.violated == () for candidate in run.last_population]
    assert feasible == sorted(feasible, reverse=True), "the feasible come first"
    with Run.open(tmp_path) as again:
        assert [candidate.violated for candidate in again.candidates] == [c.violated for c in run.candidates]


@pytest.mark.parametrize("mode", ["generational", "steady-state"])
def test_the_reference_box_is_there_where_the_first_generation_has_nothing_feasible(
    recipe: Recipe, tmp_path: Path, mode: str
) -> None:
    free = evolve(recipe.override({"search.generations": 1}), run=tmp_path / "free", workers=2, trial=SCORE)
    best = min(candidate.perplexity or 0 for candidate in free.candidates)
    settings = {"search.constraints": f"perplexity<={best - 0.001}", "search.generations": 12}
    bounded = recipe.override({**settings, "search.mode": mode})
    run = evolve(bounded, run=tmp_path / "bounded", workers=2, trial=SCORE)
    first = [candidate for candidate in run.candidates if candidate.generation == 1]
    assert all(candidate.violated for candidate in first)
    assert run.hypervolumes[0] == 0, "what breaks a constraint dominates nothing"
    assert run.hypervolumes[-1] > 0
    assert run.front
    assert run.reference == free.reference, "the box of the scores, feasible or not"
    assert reference_point([*first, replace(first[0], violated=())], recipe) != run.reference


def test_constraints_that_nothing_keeps_are_told_at_once(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Architecture, "parameters", lambda self: 1000)
    impossible = recipe.override({"search.constraints": "parameters<=10"})
    with pytest.raises(StarError, match=r"keeps to search\.constraints = parameters<=10; loosen them"):
        evolve(impossible, run=tmp_path, workers=1, trial=SCORE)


MEASURES = """
def layers(model, context):
    assert context.recipe.model.width == model.config.width and len(context.corpus.validation) > 0
    return len(model.backbone.livs)

def infinite(model, context):
    return float("inf")

def nothing(model, context):
    return None
"""


def trial_of(recipe: Recipe, objectives: str) -> Trial:
    recipe = recipe.override({"search.objectives": objectives})
    corpus = prepare(recipe.data, length=recipe.training.length)
    genome = BackboneGenome.parse("11111 91111 51111 71111")
    return Trial("1", str(genome), recipe.pool, recipe, corpus.path, 1, 2)


def nowhere(report: Any) -> None:
    pass


def test_workers_measure_times_and_functions_of_ones_own(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_measures.py").write_text(MEASURES)
    monkeypatch.chdir(tmp_path)
    trial = trial_of(recipe, "perplexity,prefill_time@256,decode_time@64,python:own_measures.layers")
    metrics = train_candidate(trial, nowhere).metrics
    assert metrics["python:own_measures.layers"] == 4.0
    assert 0 < metrics["decode_time@64"] < metrics["prefill_time@256"] < 5, "256 tokens take longer than one"
    with pytest.raises(TrialFailed, match=r"python:own_measures.infinite is inf"):
        train_candidate(trial_of(recipe, "perplexity,python:own_measures.infinite"), nowhere)
    with pytest.raises(StarError, match=r"python:own_measures.nothing returned None; it must return a number"):
        train_candidate(trial_of(recipe, "perplexity,python:own_measures.nothing"), nowhere)


def test_a_function_that_cannot_be_imported_is_told_before_anything_is_trained(recipe: Recipe, tmp_path: Path) -> None:
    for name in ("no_such_module.score", "math.no_such_function"):
        misspelt = recipe.override({"search.objectives": f"perplexity,python:{name}"})
        with pytest.raises(StarError, match=f"python:{name} cannot be imported"):
            evolve(misspelt, run=tmp_path, workers=1, trial="nowhere:nothing")
    with pytest.raises(StarError, match="cannot be called"):
        evolve(recipe.override({"search.objectives": "python:math.pi"}), run=tmp_path, workers=1)


def test_a_stored_time_is_kept_by_a_run_that_goes_on(recipe: Recipe, tmp_path: Path) -> None:
    timed = recipe.override({"search.objectives": "perplexity,decode_time@64", "search.generations": 1})
    first = evolve(timed, run=tmp_path, workers=2, trial="synthesis_fakes:timed")
    times = {candidate.name: candidate.scores["decode_time@64"] for candidate in first.candidates}
    longer = timed.override({"search.generations": 2})
    again = evolve(longer, run=tmp_path, workers=2, trial="synthesis_fakes:timed")
    assert all(math.isfinite(value) for value in times.values())
    assert {c.name: c.scores["decode_time@64"] for c in again.candidates if c.generation == 1} == times
    assert [replace(c, seconds=None) for c in again.population(1)] == [
        replace(c, seconds=None) for c in first.population(1)
    ]
