"""Halving in a search: who is stopped, what is compared, what tell hears, and when it is switched off."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthesis_fakes import halved

from star.data import prepare
from star.errors import StarError
from star.synthesis import Recipe, Run, Status, evolve
from star.synthesis.events import CandidateAtRung, Event, HalvingOff, RungsCompared
from star.synthesis.trial import Trial, train_candidate

LEARNING = "synthesis_fakes:learning"


@pytest.fixture
def rungs(recipe: Recipe) -> Recipe:
    return halved(recipe)


def everything(run: Run) -> list[Any]:
    populations = [[c.name for c in run.population(g)] for g in range(1, run.generations + 1)]
    return [[replace(candidate, seconds=None) for candidate in run.candidates], populations, run.hypervolumes]


def test_most_candidates_are_stopped_and_what_survives_had_the_whole_budget(rungs: Recipe, tmp_path: Path) -> None:
    events: list[Event] = []
    run = evolve(rungs, run=tmp_path, workers=2, listener=events.append, trial=LEARNING)
    assert rungs.rung_tokens == (512, 1024, 2048)
    first = [candidate for candidate in run.candidates if candidate.generation == 1]
    assert all(candidate.status is not Status.STOPPED for candidate in first), "the first generation is measured whole"
    for generation in (2, 3):
        born = [candidate for candidate in run.candidates if candidate.generation == generation]
        reached = Counter(len(candidate.rungs) for candidate in born if candidate.status is not Status.FAILED)
        assert sum(candidate.status is Status.DONE for candidate in born) <= 2, "a quarter of 6, rounded up twice"
        assert reached[1] >= 2, "some stop at the first rung"
    stopped = [candidate for candidate in run.candidates if candidate.status is Status.STOPPED]
    assert all("perplexity" not in candidate.scores and candidate.perplexity is None for candidate in stopped)
    for generation in (1, 2, 3):
        alive = [c for c in run.population(generation) if c.status is not Status.FAILED]
        assert all(candidate.status is Status.DONE for candidate in alive), "no fidelities are mixed"
    assert len([e for e in events if isinstance(e, CandidateAtRung)]) == sum(len(c.rungs) for c in run.candidates)
    assert not [event for event in events if isinstance(event, HalvingOff)]
    told = [event for event in events if isinstance(event, RungsCompared)]
    assert [(event.generation, event.tokens) for event in told][:2] == [(1, 512), (1, 1024)]
    assert told[0].correlation is not None
    assert told[0].correlation > 0.5
    assert not (tmp_path / "checkpoints").exists(), "they go with the generation"


def test_tokens_count_everything_that_is_trained(rungs: Recipe, tmp_path: Path) -> None:
    run = evolve(rungs, run=tmp_path, workers=2, trial=LEARNING)
    # Steps of 128 tokens: rungs of 4, 8 and 16 steps, whose decays begin after 3, 6 and 13.
    costs = {1: 4 * 128, 2: (4 + 8 - 3) * 128}
    whole = (4 + (8 - 3) + (16 - 6)) * 128
    for candidate in run.candidates:
        if candidate.status is Status.STOPPED:
            assert candidate.tokens == costs[len(candidate.rungs)]
        elif candidate.status is Status.DONE:
            assert candidate.tokens == whole


def test_the_number_of_workers_and_interruptions_change_nothing(rungs: Recipe, tmp_path: Path) -> None:
    whole = everything(evolve(rungs, run=tmp_path / "whole", workers=1, trial=LEARNING))
    assert everything(evolve(rungs, run=tmp_path / "three", workers=3, trial=LEARNING)) == whole
    seen = 0

    def interrupt(event: Event) -> None:
        nonlocal seen
        seen += isinstance(event, CandidateAtRung)
        if seen == 7:
            seen += 1
            raise KeyboardInterrupt

    for _ in range(3):
        try:
            evolve(rungs, run=tmp_path / "parts", workers=2, listener=interrupt, trial=LEARNING)
        except KeyboardInterrupt:
            seen = 0
    assert everything(evolve(None, run=tmp_path / "parts", workers=2, trial=LEARNING)) == whole


def test_halving_ends_where_rungs_foretell_nothing(rungs: Recipe, tmp_path: Path) -> None:
    events: list[Event] = []
    run = evolve(rungs, run=tmp_path, workers=2, listener=events.append, trial="synthesis_fakes:capricious")
    (notice,) = [event for event in events if isinstance(event, HalvingOff)]
    assert notice.correlation is None or notice.correlation < notice.least == 0.5
    later = [candidate for candidate in run.candidates if candidate.generation > 1]
    assert all(candidate.status is Status.DONE and candidate.rungs == () for candidate in later)


def test_a_candidate_scores_the_same_in_rungs_and_in_one_go(rungs: Recipe, tmp_path: Path) -> None:
    corpus = prepare(rungs.data, length=rungs.training.length)
    trial = Trial("1", "11111 91111 51111 71111", rungs.pool, rungs, corpus.path, 1, 2)
    in_one_go = train_candidate(trial, lambda report: None)
    for tokens in rungs.rung_tokens:
        outcome = train_candidate(replace(trial, tokens=tokens, checkpoint=tmp_path), lambda report: None)
    assert outcome == in_one_go


def test_a_recipe_without_the_section_has_no_rungs_and_toml_keeps_it(rungs: Recipe, recipe: Recipe) -> None:
    assert recipe.halving is None
    assert recipe.rung_tokens == (recipe.training.tokens,)
    assert "halving" not in recipe.to_toml()
    assert Recipe.from_toml(rungs.to_toml()) == rungs
    assert "halving" in recipe.differences(rungs)
    assert "halving" in rungs.differences(recipe)
    assert rungs.differences(rungs.override({"halving.rungs": 2})) == ["halving.rungs"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"search.algorithm": "ga"}, "use nsga2 or random"),
        ({"search.objectives": "parameters,decode_time@64"}, "an objective that training decides"),
        ({"training.schedule": "cosine"}, r"set training\.schedule = 'trapezoid'"),
        ({"training.warmup_tokens": 512}, "the rung of 512 tokens: warmup_tokens"),
        ({"halving.rungs": 1}, r"halving\.rungs"),
    ],
)
def test_recipes_that_cannot_be_halved_are_refused(rungs: Recipe, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StarError, match=message):
        rungs.override(settings)


def test_halving_and_screening_go_together_and_go_on_exactly(rungs: Recipe, tmp_path: Path) -> None:
    both = rungs.override({"surrogate.factor": 3})
    assert Recipe.from_toml(both.to_toml()) == both
    short = both.override({"search.generations": 2})
    whole = everything(evolve(both, run=tmp_path / "whole", workers=2, trial=LEARNING))
    evolve(short, run=tmp_path / "parts", workers=2, trial=LEARNING)
    assert everything(evolve(both, run=tmp_path / "parts", workers=1, trial=LEARNING)) == whole
    digests = [candidate.digest for candidate in Run.open(tmp_path / "whole").candidates]
    assert len(digests) == len(set(digests))
