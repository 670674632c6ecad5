"""A search in steady state as a job: no barrier, an order that is stored, and all that generational searches can do."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from star.errors import StarError
from star.synthesis import Candidate, Recipe, Run, RunState, Status, evolve
from star.synthesis.events import (
    CandidateFinished,
    CandidateLeft,
    CandidateStarted,
    Event,
    GenerationFinished,
    GenerationStarted,
    SearchFinished,
    SearchPaused,
)
from star.synthesis.store import Store

SCORE = "synthesis_fakes:score"
BIRTHS = 6 + 4 + 4


@pytest.fixture
def steady(recipe: Recipe) -> Recipe:
    return recipe.override({"search.mode": "steady-state"})


def everything(run: Run) -> list[Any]:
    populations = [[c.name for c in run.population(g)] for g in range(1, run.generations + 1)]
    return [[replace(candidate, seconds=None) for candidate in run.candidates], populations, run.hypervolumes]


def by_result(run: Run) -> list[Candidate]:
    return sorted(run.candidates, key=lambda candidate: candidate.ended or 0)


def test_nobody_waits_for_the_slowest(steady: Recipe, tmp_path: Path) -> None:
    events: list[Event] = []
    run = evolve(
        steady,
        run=tmp_path / "run",
        workers=2,
        listener=events.append,
        trial="synthesis_fakes:first_is_last",
        timeout=120,
    )
    *others, one_of_two, other = [candidate.name for candidate in by_result(run)]
    assert others == [*map(str, range(2, BIRTHS))]
    assert {one_of_two, other} == {"1", str(BIRTHS)}, "the first may end as soon as the last has begun"
    flow = [event for event in events if isinstance(event, (CandidateStarted, CandidateFinished))]
    running = 0
    for event, following in pairwise(flow):
        running += 1 if isinstance(event, CandidateStarted) else -1
        if running == 1 and event.candidate.name not in ("1", str(BIRTHS)):
            assert isinstance(following, CandidateStarted), "a worker that is free has its next candidate at once"
    assert [candidate.bred_after for candidate in run.candidates] == [0] * 6 + list(range(5, 13))
    assert {candidate.generation for candidate in run.candidates} == {1, 2, 3}
    assert run.state is RunState.FINISHED
    ends = [event.generation for event in events if isinstance(event, GenerationFinished)]
    assert ends == [1, 2, 3]
    assert isinstance(flow[-1], CandidateFinished)
    assert events.index(flow[-1]) < min(events.index(e) for e in events if isinstance(e, GenerationFinished))
    assert run.population(1) == run.population(3), "a generation ends when all that were born by then are told"


def test_one_worker_makes_one_run_however_it_is_interrupted(steady: Recipe, tmp_path: Path) -> None:
    whole = evolve(steady, run=tmp_path / "whole", workers=1, trial=SCORE)
    assert [candidate.ended for candidate in whole.candidates] == list(range(1, BIRTHS + 1))
    assert [c.bred_after for c in whole.candidates] == [0] * 6 + list(range(6, BIRTHS))
    assert [len(whole.population(generation)) for generation in (1, 2, 3)] == [6, 6, 6]
    assert everything(evolve(steady, run=tmp_path / "again", workers=1, trial=SCORE)) == everything(whole)

    trained: list[str] = []

    def interrupt(event: Event) -> None:
        if isinstance(event, CandidateFinished):
            trained.append(event.candidate.name)
            if len(trained) % 4 == 0:
                raise KeyboardInterrupt

    for _ in range(BIRTHS // 4):
        with pytest.raises(KeyboardInterrupt):
            evolve(steady, run=tmp_path / "parts", workers=1, listener=interrupt, trial=SCORE)
    assert everything(evolve(None, run=tmp_path / "parts", workers=1, trial=SCORE)) == everything(whole)
    assert len(trained) == 12
    assert sorted(trained, key=int) == [str(number) for number in range(1, 13)]


def test_more_generations_extend_a_run_as_if_asked_for_at_once(steady: Recipe, tmp_path: Path) -> None:
    whole = evolve(steady, run=tmp_path / "whole", workers=1, trial=SCORE)
    evolve(steady.override({"search.generations": 1}), run=tmp_path / "parts", workers=1, trial=SCORE)
    assert everything(evolve(steady, run=tmp_path / "parts", workers=1, trial=SCORE)) == everything(whole)


def test_several_workers_with_uneven_trials_make_a_run_that_can_be_told_again(steady: Recipe, tmp_path: Path) -> None:
    run = evolve(steady, run=tmp_path, workers=3, trial="synthesis_fakes:uneven_score")
    assert sorted(candidate.ended or 0 for candidate in run.candidates) == list(range(1, BIRTHS + 1))
    assert [candidate.name for candidate in by_result(run)] != [candidate.name for candidate in run.candidates]
    for candidate in run.candidates:
        parents = [run.candidate(name) for name in candidate.parents]
        assert all((parent.ended or 0) <= (candidate.bred_after or 0) for parent in parents), "bred from what was told"
    before = everything(run)
    events: list[Event] = []
    assert everything(evolve(steady, run=tmp_path, listener=events.append, trial="nowhere:nothing")) == before
    assert [e.generation for e in events if isinstance(e, GenerationStarted)] == [1, 2, 3]
    volumes = [event.hypervolume for event in events if isinstance(event, GenerationFinished)]
    assert volumes == run.hypervolumes


def test_a_run_made_by_other_rules_is_not_continued(steady: Recipe, tmp_path: Path) -> None:
    run = evolve(steady.override({"search.generations": 2}), run=tmp_path, workers=2, trial=SCORE)
    run.close()
    with Store.create(tmp_path) as store:
        store._connection.execute("UPDATE candidates SET digest = 'another' WHERE name = '8'")
    with pytest.raises(StarError, match=r"generation 2 .* does not follow"):
        evolve(steady, run=tmp_path, workers=1, trial=SCORE)


def test_after_a_fault_of_the_machine_nothing_more_is_bred(steady: Recipe, tmp_path: Path) -> None:
    for fault in ("full_disk", "die_in_two"):
        events: list[Event] = []
        with pytest.raises(StarError, match="candidate 2 could not be trained"):
            evolve(steady, run=tmp_path / fault, workers=1, listener=events.append, trial=f"synthesis_fakes:{fault}")
        assert [event.candidate.name for event in events if isinstance(event, CandidateLeft)] == ["2"]
        with Run.open(tmp_path / fault) as run:
            pending = [candidate.name for candidate in run.candidates if candidate.status is Status.PENDING]
            assert (len(run.candidates), pending, run.generations) == (6, ["2"], 0)
            assert run.state is RunState.INTERRUPTED
        evolve(steady, run=tmp_path / fault, workers=1, trial=SCORE)
        with Run.open(tmp_path / fault) as run:
            assert run.candidate(2).ended == 6
            assert (len(run.candidates), run.state) == (BIRTHS, RunState.FINISHED)


def test_a_time_out_leaves_its_candidate_pending(steady: Recipe, tmp_path: Path) -> None:
    with pytest.raises(StarError, match="candidate 2 could not be trained: the trial ran longer"):
        evolve(steady, run=tmp_path, workers=2, trial="synthesis_fakes:hang", timeout=2)
    with Run.open(tmp_path) as run:
        assert [c.name for c in run.candidates if c.status is Status.PENDING] == ["2"]


def test_a_budget_ends_between_trials(steady: Recipe, tmp_path: Path) -> None:
    events: list[Event] = []
    run = evolve(
        steady, run=tmp_path, workers=2, listener=events.append, budget=0.5, trial="synthesis_fakes:uneven_score"
    )
    assert isinstance(events[-1], SearchPaused)
    assert run.state is RunState.INTERRUPTED
    started = [event.candidate.name for event in events if isinstance(event, CandidateStarted)]
    assert sum(candidate.status is not Status.PENDING for candidate in run.candidates) == len(started)
    again = evolve(None, run=tmp_path, workers=2, trial=SCORE)
    assert (again.state, len(again.candidates)) == (RunState.FINISHED, BIRTHS)


def test_an_exhausted_space_ends_the_search_early(steady: Recipe, tmp_path: Path) -> None:
    settings = {"model.depth": 1, "search.population": 10, "search.generations": 5}
    tiny = steady.override(settings)
    events: list[Event] = []
    run = evolve(tiny, run=tmp_path, workers=2, listener=events.append, trial="synthesis_fakes:without_failures")
    assert len(run.candidates) == 17
    assert events[-1] == SearchFinished(2, exhausted=True)
    assert run.state is RunState.FINISHED
    assert run.generations == 2, "10 births and 7"
    before = everything(run)
    assert everything(evolve(tiny, run=tmp_path, trial="nowhere:nothing")) == before
    static = tiny.override({"search.objectives": "parameters", "data.source": "/nowhere"})
    assert len(evolve(static, run=tmp_path / "static", trial="nowhere:nothing").candidates) == 17


def test_constraints_screening_and_a_front_to_begin_with(steady: Recipe, tmp_path: Path) -> None:
    first = evolve(steady, run=tmp_path / "first", workers=2, trial="synthesis_fakes:without_failures")
    genomes = tuple(candidate.genome for candidate in first.front)
    settings = {"search.constraints": "perplexity<=15", "surrogate.factor": 3, "search.initial": genomes}
    run = evolve(steady.override(settings), run=tmp_path / "run", workers=2, trial="synthesis_fakes:without_failures")
    assert tuple(candidate.genome for candidate in run.candidates[: len(genomes)]) == genomes
    assert len({candidate.digest for candidate in run.candidates}) == BIRTHS
    broken = {candidate.name for candidate in run.candidates if (candidate.perplexity or 0) > 15}
    assert broken == {candidate.name for candidate in run.candidates if candidate.violated}
    assert broken.isdisjoint(candidate.name for candidate in run.front)
    feasible = [candidate.violated == () for candidate in run.last_population]
    assert feasible == sorted(feasible, reverse=True)


def test_a_generation_of_failures_ends_the_search(steady: Recipe, tmp_path: Path) -> None:
    with pytest.raises(StarError, match="all 6 candidates of generation 1 failed"):
        evolve(steady, run=tmp_path, workers=1, trial="synthesis_fakes:diverge")


def test_modes_that_cannot_be_are_refused(steady: Recipe, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(StarError, match="leave out one of the two"):
        steady.override({"halving.rungs": 2, "training.schedule": "trapezoid"})
    with pytest.raises(StarError, match="'firefly' searches in generations only"):
        steady.override({"search.algorithm": "firefly"})
    assert Recipe.from_toml(steady.to_toml()) == steady
    evolve(recipe, run=tmp_path, workers=2, trial=SCORE)
    with pytest.raises(StarError, match=r"search\.mode differ"):
        evolve(steady, run=tmp_path, workers=2, trial=SCORE)


def test_a_failed_birth_ends_no_search(steady: Recipe, tmp_path: Path) -> None:
    """With five elites of six, a generation is a single birth; one in six fails here."""
    few = steady.override({"search.elites": 5, "search.generations": 12})
    with evolve(few, run=tmp_path, workers=1, trial=SCORE) as run:
        assert run.state is RunState.FINISHED
        alone = [[c.status for c in run.candidates if c.generation == g] for g in range(2, run.generations + 1)]
        assert [Status.FAILED] in alone
        assert all(candidate.status is Status.DONE for candidate in run.front)
