"""Searches whose children inherit: repeatable, killed and continued, tidy on disk, and honest about tokens."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthesis_fakes import halved

from star.data import prepare
from star.errors import StarError
from star.genome import BackboneGenome, preset
from star.lm import analyse
from star.synthesis import Candidate, Recipe, Run, Status, compare, evolve
from star.synthesis.events import CandidateFinished, CandidateStarted, Event, GenerationFinished
from star.synthesis.inheritance import Heritage, Parent, inherited
from star.synthesis.session import open_session
from star.synthesis.store import Store
from star.synthesis.trial import Trial, train_candidate

FAKE = "synthesis_fakes:inheriting"
BABY: dict[str, Any] = {
    "model.depth": 3,
    "training.tokens": 1024,
    "training.batch_tokens": 128,
    "training.length": 32,
    "search.population": 4,
    "search.generations": 4,
    "inheritance.discount": 0.5,
}


def everything(run: Run) -> list[Any]:
    populations = [[c.name for c in run.population(g)] for g in range(1, run.generations + 1)]
    return [[replace(candidate, seconds=None) for candidate in run.candidates], populations, run.hypervolumes]


def kept(run: Path) -> set[str]:
    """Whose weights are there, and whatever else lies with them."""
    return {path.name.removesuffix(".safetensors") for path in (run / "weights").iterdir()}


class Disk:
    """Looks at the weights of a run whenever something happens."""

    def __init__(self, run: Path) -> None:
        self.run, self.most = run, 0
        self.alive: set[str] = set()

    def __call__(self, event: Event) -> None:
        if isinstance(event, GenerationFinished):
            self.alive = {each.name for each in event.population if each.status is Status.DONE}
            assert kept(self.run) == self.alive
        if isinstance(event, CandidateStarted):
            assert set(event.candidate.parents) <= self.alive, "parents still have their weights"
        if isinstance(event, CandidateFinished):
            assert (event.candidate.name in kept(self.run)) is (event.candidate.status is Status.DONE)
            self.most = max(self.most, len(kept(self.run)))


@pytest.fixture(scope="module")
def real(recipe: Recipe, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search with real training, by one worker."""
    path = tmp_path_factory.mktemp("real") / "run"
    disk = Disk(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STAR_CACHE", str(cache))
        evolve(recipe.override(BABY), run=path, workers=1, listener=disk).close()
    assert disk.most <= 4 + 2, "a population and a generation"
    return path


def test_two_workers_give_the_same_run(real: Path, recipe: Recipe, tmp_path: Path) -> None:
    with Run.open(real) as whole, evolve(recipe.override(BABY), run=tmp_path, workers=2) as other:
        assert everything(other) == everything(whole)
        for name in kept(real):
            file = f"weights/{name}.safetensors"
            assert (tmp_path / file).read_bytes() == (real / file).read_bytes()


def descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(below for child in children for below in descendants(child))]


def test_a_search_killed_while_it_trains_goes_on_to_the_same_end(real: Path, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "baby.toml").write_text(recipe.override(BABY).to_toml())
    run = tmp_path / "run"
    command = "import sys; from star.synthesis import evolve; evolve(sys.argv[1], run=sys.argv[2], workers=2)"
    kills = 0
    for target in (3, 7, None):
        log = (tmp_path / "log").open("wb")
        process = subprocess.Popen([sys.executable, "-c", command, tmp_path / "baby.toml", run], stderr=log)
        if target is not None:
            _until(process, lambda target=target: finished(run) >= target or len(_files(run)) > finished(run))
            family = descendants(process.pid) if Path(f"/proc/{process.pid}").exists() else []
            kills += process.poll() is None
            process.kill()
            for pid in family:  # workers in the middle of a training or of a file
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        status = process.wait(300)
        log.close()
        assert status == (0 if target is None else status)
    assert kills == 2
    with Run.open(real) as whole, Run.open(run) as other:
        assert everything(other) == everything(whole)
    assert kept(run) == kept(real)


def finished(run: Path) -> int:
    try:
        with Run.open(run) as found:
            return sum(each.status is not Status.PENDING for each in found.candidates)
    except StarError:
        return 0


def _files(run: Path) -> list[Path]:
    return list((run / "weights").glob("*.safetensors")) if (run / "weights").exists() else []


def _until(process: subprocess.Popen[bytes], happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline and not happened():
        time.sleep(0.02)


def test_tokens_are_those_trained_and_lineages_add_up(real: Path) -> None:
    with Run.open(real) as run:
        recipe, by_name = run.recipe, {each.name: each for each in run.candidates}
        heirs = 0
        for each in by_name.values():
            assert each.status is Status.DONE
            assert each.tokens == each.curve[-1][0], "what is counted is what was trained"
            parents = [by_name[name] for name in each.parents]
            genome = BackboneGenome.parse(each.canonical)
            sources = inherited(genome, [BackboneGenome.parse(parent.canonical) for parent in parents], recipe.pool)
            rows = analyse(genome, recipe.pool, width=32, length=32).rows
            given = sum(row.parameters for row, source in zip(rows, sources, strict=True) if source is not None)
            budget = 1024 * (1 - 0.5 * given / sum(row.parameters for row in rows))
            assert each.tokens == round(budget) // 128 * 128
            givers = [parents[source] for source in set(sources) | {0} if source is not None and parents]
            assert each.lineage_tokens == each.tokens + max((giver.lineage_tokens for giver in givers), default=0)
            heirs += any(source is not None for source in sources)
        assert heirs >= 2
        grandchildren = [
            each for each in by_name.values() if any(by_name[name].inherited_tokens for name in each.parents)
        ]
        assert max(each.lineage_tokens for each in grandchildren) > max(each.tokens for each in by_name.values())


def test_parents_without_weights_are_an_error_and_not_another_result(real: Path, tmp_path: Path) -> None:
    run, away = tmp_path / "run", tmp_path / "away"
    shutil.copytree(real, run)
    with Run.open(run) as opened:
        longer = opened.recipe.override({"search.generations": 5})
    (run / "weights").rename(away)
    with pytest.raises(
        StarError, match=r"could not be trained .*: the weights of its parent, candidate \d+, are missin"
    ):
        evolve(longer, run=run, workers=2)
    with Run.open(run) as opened:
        assert {each.status for each in opened.candidates if each.generation == 5} == {Status.PENDING}
    shutil.copytree(away, run / "weights", dirs_exist_ok=True)
    with evolve(None, run=run, workers=2) as opened:
        assert opened.generations == 5
        assert kept(run) == {each.name for each in opened.last_population}


def test_inheritance_goes_with_halving_and_screening(recipe: Recipe, tmp_path: Path) -> None:
    both = halved(recipe).override({"inheritance.discount": 0.0, "surrogate.factor": 2})
    disk = Disk(tmp_path / "one")
    with evolve(both, run=tmp_path / "one", workers=1, listener=disk, trial=FAKE) as run:
        whole = everything(run)
        assert any(candidate.inherited_tokens for candidate in run.last_population)
        assert any(candidate.rungs for candidate in run.candidates)
    seen = 0

    def interrupt(event: Event) -> None:
        nonlocal seen
        seen += isinstance(event, CandidateFinished)
        if seen == 10:
            seen += 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evolve(both, run=tmp_path / "two", workers=2, listener=interrupt, trial=FAKE)
    with evolve(None, run=tmp_path / "two", workers=2, trial=FAKE) as run:
        assert everything(run) == whole
    assert kept(tmp_path / "two") == kept(tmp_path / "one")


def test_an_heir_scores_the_same_in_rungs_and_in_one_go(recipe: Recipe, tmp_path: Path) -> None:
    rungs = halved(recipe).override({"inheritance.discount": 0.0, "training.length": 32})
    corpus = prepare(rungs.data, length=rungs.training.length)
    parent = Trial("1", "11111 91111", rungs.pool, rungs, corpus.path, 1, 2, weights=tmp_path / "1.safetensors")
    train_candidate(parent, lambda report: None)
    heritage = Heritage((Parent("1", parent.genome, tmp_path / "1.safetensors"),))
    trial = replace(parent, name="2", genome="11111 51111", seed=3, heritage=heritage, weights=None)
    in_one_go = train_candidate(trial, lambda report: None)
    for tokens in rungs.rung_tokens:
        rung = replace(trial, tokens=tokens, checkpoint=tmp_path / "2")
        outcome = train_candidate(rung, lambda report: None)
    assert outcome == in_one_go


def test_failed_parents_and_newcomers_bring_nothing(recipe: Recipe, tmp_path: Path) -> None:
    """A genetic algorithm lets failed candidates breed, too, when it has too few others."""
    ga = recipe.override({"search.algorithm": "ga", "inheritance.discount": 0.0, "search.generations": 5})
    with evolve(ga, run=tmp_path, workers=2, trial=FAKE) as run:
        by_name = {each.name: each for each in run.candidates}
        assert any(each.status is Status.FAILED for each in by_name.values())
        for each in by_name.values():
            trained = [name for name in each.parents if by_name[name].status is Status.DONE]
            assert bool(each.inherited_tokens) is bool(trained)


def test_initial_genomes_from_another_front_begin_fresh(recipe: Recipe, tmp_path: Path) -> None:
    seeded = recipe.override(
        {"inheritance.discount": 0.0, "search.initial": ["11111 91111 51111 91111"], "search.generations": 1}
    )
    with evolve(seeded, run=tmp_path, workers=2, trial=FAKE) as run:
        assert {each.inherited_tokens for each in run.candidates} == {0}


@pytest.mark.parametrize("behind", [0, 4096])
def test_a_baseline_takes_over_a_result_only_where_that_was_trained_from_scratch(
    behind: int, recipe: Recipe, tmp_path: Path
) -> None:
    inherits = recipe.override({"inheritance.discount": 0.0})
    genome, pool = preset("transformer++", 4)
    twin = Candidate(
        "1", str(genome), str(genome), genome.digest(pool), 5, generation=2, inherited_tokens=behind, tokens=2048
    )
    with Store.create(tmp_path) as store:
        store.put_facts(recipe=inherits.model_dump_json())
        store.add([twin])
        store.finish(replace(twin, status=Status.DONE, metrics={"perplexity": 1.5}, scores={"perplexity": 1.5}))
    started: list[str] = []

    def watch(event: Event) -> None:
        if isinstance(event, CandidateStarted):
            started.append(event.candidate.name)

    with compare(tmp_path, workers=2, listener=watch, trial="synthesis_fakes:without_failures") as run:
        baseline = run.baselines["transformer++"]
    assert (baseline.perplexity == 1.5) is (behind == 0)
    assert ("transformer++" in started) is (behind > 0)
    assert baseline.inherited_tokens == 0
    assert not (tmp_path / "weights").exists(), "baselines have no children"


def test_without_the_section_nothing_is_inherited_kept_or_stored(recipe: Recipe, tmp_path: Path) -> None:
    assert recipe.inheritance is None
    assert "inheritance" not in recipe.to_toml()
    with evolve(recipe, run=tmp_path, workers=2, trial="synthesis_fakes:score") as run:
        assert all(each.lineage_tokens == each.tokens for each in run.candidates)
        assert not (tmp_path / "weights").exists()
    import sqlite3

    with sqlite3.connect(tmp_path / "run.db") as database:
        assert not [row for (row,) in database.execute("SELECT data FROM candidates") if "inherited" in row]
    with open_session(tmp_path, None, workers=1, listener=lambda event: None) as session:
        child = next(each for each in session.store.candidates() if each.parents)
        assert session.assessed(child, recipe.pool).inherited_tokens == 0


def test_toml_keeps_the_section_and_a_run_keeps_to_it(recipe: Recipe, tmp_path: Path) -> None:
    inherits = recipe.override({"inheritance.discount": 0.25})
    assert Recipe.from_toml(inherits.to_toml()) == inherits
    assert Recipe.from_toml(recipe.to_toml() + "\n[inheritance]\n").inheritance is not None
    assert "inheritance" in recipe.differences(inherits)
    evolve(recipe.override({"search.generations": 1}), run=tmp_path, workers=2, trial=FAKE).close()
    with pytest.raises(StarError, match="began with another recipe; inheritance"):
        evolve(inherits, run=tmp_path, workers=2, trial=FAKE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"search.algorithm": "random"}, "random' breeds nothing"),
        ({"search.objectives": "parameters,decode_time@64"}, "an objective that training decides"),
        ({"inheritance.discount": 1.0}, r"inheritance\.discount"),
        ({"inheritance.discount": 0.9}, "a child that inherits everything: tokens = 205 does not pay for one step"),
        (
            {
                "halving.rungs": 2,
                "training.batch_tokens": 128,
                "training.schedule": "trapezoid",
                "inheritance.discount": 0.5,
            },
            "leave out one of the two",
        ),
    ],
)
def test_recipes_that_cannot_inherit_are_refused(recipe: Recipe, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StarError, match=message):
        recipe.override({"inheritance.discount": 0.0, "training.warmup_tokens": 0, **settings})
