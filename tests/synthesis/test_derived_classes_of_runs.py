"""Derived classes as a part of a run: stored with it, the same for any number of workers and after interruptions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from star.errors import StarError
from star.genome import BackboneGenome, LivClass, OptionPool, problems
from star.synthesis import Recipe, Run, RunState, evolve
from star.synthesis.events import CandidateFinished, Event
from star.synthesis.seeding import seeded

SCORE = "synthesis_fakes:score"


@pytest.fixture
def inside(recipe: Recipe) -> Recipe:
    return recipe.override({"model.extend": "operators", "search.generations": 5})


def result(run: Run) -> list[object]:
    candidates = [replace(candidate, seconds=None) for candidate in run.candidates]
    populations = [[c.name for c in run.population(g)] for g in range(1, run.generations + 1)]
    return [candidates, populations, run.derived]


def interrupted_after(count: int) -> type:
    class Watcher:
        finished = 0

        def __call__(self, event: Event) -> None:
            self.finished += isinstance(event, CandidateFinished)
            if self.finished == count:
                raise KeyboardInterrupt

    return Watcher


def test_workers_and_interruptions_change_nothing(inside: Recipe, tmp_path: Path) -> None:
    with evolve(inside, run=tmp_path / "one", workers=1, trial=SCORE) as run:
        expected = result(run)
        assert run.derived
        assert run.pool.ids == tuple(sorted((*inside.pool.ids, *(row.id for row in run.derived))))
        assert len({row.identity for row in run.pool.rows}) == len(run.pool.rows)
    with evolve(inside, run=tmp_path / "two", workers=2, trial="synthesis_fakes:uneven_score") as run:
        assert result(run) == expected
    for count in (3, 5, 7):  # finished since the last start
        with pytest.raises(KeyboardInterrupt):
            evolve(inside, run=tmp_path / "killed", workers=2, trial=SCORE, listener=interrupted_after(count)())
    with evolve(None, run=tmp_path / "killed", workers=2, trial=SCORE) as run:
        assert run.state is RunState.FINISHED
        assert result(run) == expected


def test_an_architecture_comes_with_the_derived_classes_that_it_has(inside: Recipe, tmp_path: Path) -> None:
    with evolve(inside, run=tmp_path / "run", workers=2, trial=SCORE) as run:
        for candidate in run.candidates:
            genome, pool = run.architecture(candidate)
            assert problems(genome, pool) == []
            assert genome.digest(pool) == candidate.digest
            assert {row.id for row in pool.rows} - set(inside.pool.ids) <= {segment.liv for segment in genome}


def test_halving_constraints_and_a_surrogate_work_over_derived_classes(inside: Recipe, tmp_path: Path) -> None:
    from synthesis_fakes import halved

    recipe = halved(inside).override({"surrogate.factor": 3, "search.constraints": "parameters<=60000"})
    with evolve(recipe, run=tmp_path / "run", workers=2, trial="synthesis_fakes:learning") as run:
        assert run.state is RunState.FINISHED
        assert run.derived
        assert all(candidate.parameters <= 60000 for candidate in run.candidates)


def test_the_front_of_a_run_with_derived_classes_begins_another_search(inside: Recipe, tmp_path: Path) -> None:
    with evolve(inside.override({"search.mutation": 0.5}), run=tmp_path / "run", workers=2, trial=SCORE) as run:
        front = [run.architecture(candidate) for candidate in run.front]
        used = {segment.liv for genome, _ in front for segment in genome if segment.liv not in inside.pool}
        assert used
        plain = seeded(inside.override({"model.extend": ()}), run)
        again = seeded(seeded(inside, run), run)
        clash = run.pool[min(used)]
        taken = LivClass(clash.id, "taken", run.pool[1].operator, run.pool[1].featurizer, window=3, differential=True)
        renumbered = seeded(inside.override({"model.classes": [taken]}), run)
    assert {row.id for row in plain.model.classes} == used
    assert again == seeded(inside, Run.open(tmp_path / "run")), "what is there already is not brought again"
    for recipe in (plain, again, renumbered):
        digests = [BackboneGenome.parse(text).digest(recipe.pool) for text in recipe.search.initial]
        assert digests == [genome.digest(pool) for genome, pool in front]
    assert renumbered.pool[clash.id].name == "taken"
    with evolve(renumbered, run=tmp_path / "next", workers=2, trial=SCORE) as run:
        assert [c.digest for c in run.candidates[: len(front)]] == digests
        assert not {row.identity for row in run.derived} & {row.identity for row in renumbered.pool.rows}


def test_a_class_that_does_not_exist_at_the_width_is_not_derived(recipe: Recipe) -> None:
    groups = recipe.pool[3].featurizer
    row = replace(
        recipe.pool[3],
        id=1001,
        featurizer=replace(groups, groups=tuple(replace(g, repeat=7 if g.repeat > 1 else 1) for g in groups)),
    )
    assert not recipe.fits(row)
    assert recipe.fits(OptionPool.paper()[3])
    with pytest.raises(StarError, match="7 times"):
        recipe.override({"model.classes": [row]})
