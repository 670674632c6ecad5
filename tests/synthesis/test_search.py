"""The search as a job, with trials that cost nothing: resume, repeatability, refusals, failures, baselines."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from star.errors import StarError
from star.genome import preset
from star.synthesis import Recipe, Run, RunState, Status, compare, evolve
from star.synthesis.events import (
    CandidateFinished,
    CandidateStarted,
    CorpusReady,
    Event,
    GenerationFinished,
    GenerationStarted,
    SearchFinished,
    SearchStarted,
    TextRepeated,
)
from star.synthesis.lock import exclusive
from star.synthesis.run import reference_point
from star.synthesis.store import Store
from star.synthesis.trial import Trial, TrialFailed, train_candidate

SCORE = "synthesis_fakes:score"


class Watcher:
    """Keeps the names of started and finished candidates; raises ``error`` after so many have finished."""

    def __init__(self, stop_after: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.events: list[Event] = []
        self.stop_after = stop_after
        self.error = error

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, CandidateFinished) and len(self.of(CandidateFinished)) == self.stop_after:
            raise self.error

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def started(self) -> list[str]:
        return [event.candidate.name for event in self.of(CandidateStarted)]


def result(run: Run) -> list[tuple[object, ...]]:
    """Everything about a run but times: all candidates and all populations."""
    candidates = [replace(candidate, seconds=None) for candidate in run.candidates]
    populations = [[c.name for c in run.population(g)] for g in range(1, run.generations + 1)]
    return [*((candidate,) for candidate in candidates), *map(tuple, populations), tuple(run.hypervolumes)]


def test_a_search_from_start_to_end(recipe: Recipe, tmp_path: Path) -> None:
    watcher = Watcher()
    run = evolve(recipe, run=tmp_path / "run", workers=2, listener=watcher, trial=SCORE)
    assert run.state is RunState.FINISHED
    assert run.recipe == recipe
    assert run.generations == 3
    assert [candidate.name for candidate in run.candidates] == [str(k) for k in range(1, 6 + 4 + 4 + 1)]
    assert Counter(candidate.generation for candidate in run.candidates) == {1: 6, 2: 4, 3: 4}
    assert all(candidate.status is not Status.PENDING for candidate in run.candidates)
    assert [len(run.population(generation)) for generation in (1, 2, 3)] == [6, 6, 6]
    assert run.last_population == run.population(3)

    done = [candidate for candidate in run.candidates if candidate.status is Status.DONE]
    assert all(set(c.scores) == {"perplexity", "cache_bytes@4096"} for c in done)
    assert all(c.scores["cache_bytes@4096"] == c.cache_bytes and c.parameters > 0 for c in done)
    failed = [candidate for candidate in run.candidates if candidate.status is Status.FAILED]
    assert failed, "the fake fails sometimes"
    assert {candidate.failure for candidate in failed} == {"diverged: the loss is nan at step 1"}
    assert not any(candidate in run.front for candidate in failed)
    names = {candidate.name for candidate in run.candidates}
    assert all(set(candidate.parents) <= names for candidate in run.candidates)
    assert any(candidate.parents for candidate in run.candidates if candidate.generation > 1)

    assert len(run.hypervolumes) == 3
    assert run.hypervolumes[-1] >= run.hypervolumes[0] > 0
    kinds = [type(event) for event in watcher.events if not isinstance(event, CandidateStarted)]
    assert kinds[0] is SearchStarted
    assert kinds[-1] is SearchFinished
    assert len(watcher.of(GenerationStarted)) == len(watcher.of(GenerationFinished)) == 3
    assert len(watcher.of(CorpusReady)) == 1
    assert [event.hypervolume for event in watcher.of(GenerationFinished)] == run.hypervolumes


def test_the_front_is_what_nothing_dominates(recipe: Recipe, tmp_path: Path) -> None:
    run = evolve(recipe, run=tmp_path, workers=2, trial=SCORE)
    rows = {c.name: tuple(c.scores.values()) for c in run.last_population if c.status is Status.DONE}

    def dominated(row: tuple[float, ...]) -> bool:
        return any(other != row and all(a <= b for a, b in zip(other, row, strict=True)) for other in rows.values())

    assert {c.name for c in run.front} == {name for name, row in rows.items() if not dominated(row)}
    assert [c.scores["perplexity"] for c in run.front] == sorted(c.scores["perplexity"] for c in run.front)


def test_the_number_of_workers_changes_nothing(recipe: Recipe, tmp_path: Path) -> None:
    results = [
        result(evolve(recipe, run=tmp_path / str(workers), workers=workers, trial="synthesis_fakes:uneven_score"))
        for workers in (1, 2, 4)
    ]
    assert results[0] == results[1] == results[2]


def test_the_seed_changes_the_search(recipe: Recipe, tmp_path: Path) -> None:
    one = evolve(recipe, run=tmp_path / "one", workers=2, trial=SCORE)
    other = evolve(recipe.override({"search.seed": 1}), run=tmp_path / "two", workers=2, trial=SCORE)
    assert {c.digest for c in one.candidates} != {c.digest for c in other.candidates}


@pytest.mark.parametrize("stop_after", [1, 5, 6, 9])
def test_an_interrupted_search_goes_on(recipe: Recipe, tmp_path: Path, stop_after: int) -> None:
    undisturbed = evolve(recipe, run=tmp_path / "whole", workers=2, trial=SCORE)
    first, second, third = Watcher(stop_after), Watcher(2), Watcher()
    for watcher in (first, second):
        with pytest.raises(KeyboardInterrupt):
            evolve(recipe, run=tmp_path / "parts", workers=2, listener=watcher, trial=SCORE)
        assert Run.open(tmp_path / "parts").state is RunState.INTERRUPTED
    done = [event.candidate.name for watcher in (first, second) for event in watcher.of(CandidateFinished)]
    resumed = evolve(None, run=tmp_path / "parts", workers=2, listener=third, trial=SCORE)
    assert result(resumed) == result(undisturbed)
    assert set(done).isdisjoint(third.started), "what is stored is not trained again"
    assert third.of(SearchStarted)[0].finished == len(done)


def test_a_finished_run_does_nothing_more_and_can_be_extended(recipe: Recipe, tmp_path: Path) -> None:
    longer = recipe.override({"search.generations": 5})
    undisturbed = evolve(longer, run=tmp_path / "whole", workers=2, trial=SCORE)
    before = evolve(recipe, run=tmp_path / "run", workers=2, trial=SCORE)
    idle, extending = Watcher(), Watcher()
    assert result(evolve(recipe, run=tmp_path / "run", listener=idle, trial="nowhere:nothing")) == result(before)
    assert idle.started == []
    assert idle.of(CorpusReady) == [], "a finished run needs no text"
    after = evolve(longer, run=tmp_path / "run", workers=2, listener=extending, trial=SCORE)
    assert result(after) == result(undisturbed)
    assert len(extending.started) == 8
    with pytest.raises(StarError, match="5 generations already"):
        evolve(recipe, run=tmp_path / "run", trial=SCORE)


def test_another_recipe_is_refused_with_the_settings_named(recipe: Recipe, tmp_path: Path) -> None:
    evolve(recipe, run=tmp_path, workers=2, trial=SCORE)
    changed = recipe.override({"model.width": 64, "training.tokens": 4096, "search.generations": 9})
    with pytest.raises(StarError, match=r"model\.width, training\.tokens, training\.warmup_tokens differ") as caught:
        evolve(changed, run=tmp_path, trial=SCORE)
    assert "generations," not in str(caught.value)
    assert Run.open(tmp_path).recipe == recipe


def test_a_run_that_trained_nothing_takes_another_recipe(recipe: Recipe, tmp_path: Path) -> None:
    misspelt = recipe.override({"data.source": str(tmp_path / "nowhere.txt")})
    with pytest.raises(StarError, match="nowhere"):
        evolve(misspelt, run=tmp_path / "run", workers=1, trial=SCORE)
    with evolve(recipe, run=tmp_path / "run", workers=1, trial=SCORE) as run:
        assert run.recipe == recipe
        assert run.state is RunState.FINISHED
        with evolve(recipe, run=tmp_path / "fresh", workers=1, trial=SCORE) as fresh:
            assert result(run) == result(fresh)


def test_another_text_is_refused(recipe: Recipe, text: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text(text.read_text())
    recipe = recipe.override({"data.source": str(mine)})
    with pytest.raises(KeyboardInterrupt):
        evolve(recipe, run=tmp_path / "run", workers=1, listener=Watcher(2), trial=SCORE)
    mine.write_text(text.read_text().replace("architecture", "organism"))
    with pytest.raises(StarError, match=r"data\.source"):
        evolve(recipe, run=tmp_path / "run", workers=1, trial=SCORE)


def test_a_run_in_use_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    evolve(recipe, run=tmp_path, workers=2, trial=SCORE)
    with exclusive(tmp_path):
        assert Run.open(tmp_path).state is RunState.RUNNING
        for start in (lambda: evolve(recipe, run=tmp_path), lambda: compare(tmp_path)):
            with pytest.raises(StarError, match="in use"):
                start()
    assert Run.open(tmp_path).state is RunState.FINISHED


def test_lock_is_released_after_an_error(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        evolve(recipe, run=tmp_path, workers=2, listener=Watcher(3, ZeroDivisionError), trial=SCORE)
    assert evolve(recipe, run=tmp_path, workers=2, trial=SCORE).state is RunState.FINISHED


def test_directories_that_are_no_runs_are_left_alone(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("…")
    with pytest.raises(StarError, match="other files"):
        evolve(recipe, run=tmp_path, trial=SCORE)
    with pytest.raises(StarError, match="cannot be used"):
        evolve(recipe, run=tmp_path / "thesis.tex", trial=SCORE)
    with pytest.raises(StarError, match="no run"):
        compare(tmp_path)
    with pytest.raises(StarError, match="give a recipe"):
        evolve(None, run=tmp_path / "new", trial=SCORE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "thesis.tex"]


def test_a_generation_of_failures_ends_the_search_with_the_commonest(recipe: Recipe, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(StarError, match="all 6 candidates of generation 1 failed, 5 of them because: diverged"):
            evolve(recipe, run=tmp_path, workers=2, trial="synthesis_fakes:diverge")
    run = Run.open(tmp_path)
    assert run.candidate(1).failure == "diverged: exploded"
    assert run.last_population == run.front == run.hypervolumes == []


def test_unexpected_failures_keep_their_traceback(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(StarError, match=r"candidate 1 could not be trained \(nor could 5 more\): in 1; mend that"):
        evolve(recipe, run=tmp_path, workers=2, trial="synthesis_fakes:bug")
    assert "RuntimeError: a bug" in (tmp_path / "workers.log").read_text()


@pytest.mark.parametrize(
    ("function", "cause"),
    [("full_disk", "No space left on device"), ("die_in_two", "SIGKILL, 2 times"), ("hang", "time-out of 2 seconds")],
)
def test_a_fault_of_the_machine_is_no_failure_of_the_candidate(
    recipe: Recipe, tmp_path: Path, function: str, cause: str
) -> None:
    undisturbed = evolve(recipe, run=tmp_path / "whole", workers=2, trial=SCORE)
    timeout = 2 if function == "hang" else None
    path, watcher = tmp_path / "parts", Watcher()
    with pytest.raises(StarError, match=f"candidate 2 could not be trained: .*{cause}; mend that and start"):
        evolve(recipe, run=path, workers=2, timeout=timeout, trial=f"synthesis_fakes:{function}")
    with Run.open(path) as run:
        assert [c.name for c in run.candidates if c.status is Status.PENDING] == ["2"], "the others are stored"
    assert result(evolve(recipe, run=path, workers=2, listener=watcher, trial=SCORE)) == result(undisturbed)
    assert set(watcher.started).isdisjoint({"1", "3", "4", "5", "6"})


def test_a_model_that_cannot_be_built_is_a_failure_of_the_candidate(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from star.data import prepare
    from star.lm import LanguageModel

    def refuse(*_: object, **__: object) -> None:
        raise StarError("width 33 is odd")

    monkeypatch.setattr(LanguageModel, "from_genome", refuse)
    corpus = prepare(recipe.data, length=recipe.training.length)
    trial = Trial("1", "11111", recipe.pool, recipe, corpus.path, 1, 2)
    with pytest.raises(TrialFailed, match="width 33"):
        train_candidate(trial, lambda _: None)
    with pytest.raises(StarError, match="no prepared corpus"):
        train_candidate(replace(trial, corpus=corpus.path / "gone"), lambda _: None)


def test_no_workers_are_refused_before_anything_is_made(recipe: Recipe, tmp_path: Path) -> None:
    watcher = Watcher()
    with pytest.raises(StarError, match="0 workers"):
        evolve(recipe, run=tmp_path / "run", workers=0, listener=watcher, trial=SCORE)
    assert not (tmp_path / "run").exists()
    assert watcher.events == []


def test_the_text_is_read_before_candidates_are_announced(recipe: Recipe, tmp_path: Path) -> None:
    watcher = Watcher()
    evolve(recipe, run=tmp_path / "run", workers=2, listener=watcher, trial=SCORE)
    kinds = [type(event) for event in watcher.events]
    assert kinds.index(CorpusReady) < kinds.index(GenerationStarted)
    assert TextRepeated not in kinds
    bad = Watcher()
    with pytest.raises(StarError, match="nowhere"):
        evolve(recipe.override({"data.source": "nowhere.txt"}), run=tmp_path / "bad", workers=2, listener=bad)
    assert bad.of(GenerationStarted) == []


def test_a_budget_of_many_texts_is_warned_of_once(recipe: Recipe, tmp_path: Path) -> None:
    watcher = Watcher()
    evolve(recipe.override({"training.tokens": 10**8}), run=tmp_path, workers=2, listener=watcher, trial=SCORE)
    (warning,) = watcher.of(TextRepeated)
    (ready,) = watcher.of(CorpusReady)
    assert warning.times == 10**8 / ready.train_tokens


def test_static_objectives_train_nothing(recipe: Recipe, tmp_path: Path) -> None:
    watcher = Watcher()
    static = recipe.override({"search.objectives": "parameters,cache_bytes@128", "data.source": "/nowhere"})
    run = evolve(static, run=tmp_path, listener=watcher, trial="nowhere:nothing")
    assert watcher.started == []
    assert run.state is RunState.FINISHED
    assert all(c.scores == {"parameters": c.parameters, "cache_bytes@128": c.cache_bytes} for c in run.candidates)


def test_an_exhausted_space_ends_the_search_early(recipe: Recipe, tmp_path: Path) -> None:
    watcher = Watcher()
    tiny = recipe.override({"model.depth": 1, "search.population": 15, "search.objectives": "parameters"})
    run = evolve(tiny, run=tmp_path, listener=watcher)
    assert len(run.candidates) == 17
    assert watcher.of(SearchFinished) == [SearchFinished(2, exhausted=True)]
    assert run.state is RunState.FINISHED


def test_a_run_made_by_other_rules_is_not_continued(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        evolve(recipe, run=tmp_path, workers=1, listener=Watcher(8), trial=SCORE)
    with Store.create(tmp_path) as store:
        store._connection.execute("UPDATE candidates SET digest = 'another' WHERE name = '3'")
    with pytest.raises(StarError, match=r"generation 1 .* does not follow"):
        evolve(recipe, run=tmp_path, workers=1, trial=SCORE)


def test_the_reference_is_a_tenth_beyond_the_worst_of_the_first_generation(recipe: Recipe, tmp_path: Path) -> None:
    run = evolve(recipe, run=tmp_path, workers=2, trial=SCORE)
    first = [c for c in run.candidates if c.generation == 1 and c.status is Status.DONE]
    values = [c.scores["perplexity"] for c in first]
    assert run.reference is not None
    assert run.reference[0] == pytest.approx(max(values) + 0.1 * (max(values) - min(values)))
    assert reference_point([], recipe) is None


def test_baselines_are_trained_once_on_the_runs_own_terms(recipe: Recipe, tmp_path: Path) -> None:
    run = evolve(recipe, run=tmp_path, workers=2, trial="synthesis_fakes:without_failures")
    before = result(run)
    first, second = Watcher(), Watcher()
    baselines = compare(run, workers=2, listener=first, trial="synthesis_fakes:without_failures").baselines
    assert list(baselines) == ["transformer++", "striped-mamba"]
    assert all(b.status is Status.DONE and b.perplexity and b.parameters for b in baselines.values())
    assert run.architecture(baselines["striped-mamba"]) == preset("striped-mamba", recipe.model.depth)

    again = compare(tmp_path, workers=2, listener=second, trial="nowhere:nothing")
    assert again.baselines == baselines
    assert second.started == []
    assert result(again) == before, "the search is untouched"
    assert again.candidate("striped-mamba") == baselines["striped-mamba"]


def test_a_baseline_that_the_search_has_trained_takes_over_that_result(recipe: Recipe, tmp_path: Path) -> None:
    run = evolve(recipe, run=tmp_path, workers=2, trial="synthesis_fakes:without_failures")
    twin = next(c for c in run.candidates if c.canonical == str(preset("transformer++", 4)[0]))
    watcher = Watcher()
    baseline = compare(run, workers=2, listener=watcher, trial="synthesis_fakes:without_failures").baselines[
        "transformer++"
    ]
    assert "transformer++" not in watcher.started
    assert (baseline.metrics, baseline.curve, baseline.seed) == (twin.metrics, twin.curve, twin.seed)


def test_presets_that_coincide_are_trained_once(recipe: Recipe, tmp_path: Path) -> None:
    shallow = recipe.override({"model.depth": 2})
    with Store.create(tmp_path) as store:  # a run that has trained nothing yet
        store.put_facts(recipe=shallow.model_dump_json())
    watcher = Watcher()
    baselines = compare(tmp_path, workers=2, listener=watcher, trial="synthesis_fakes:without_failures").baselines
    assert watcher.started == ["transformer++"]
    assert baselines["transformer++"].metrics == baselines["striped-mamba"].metrics


def test_a_search_that_trains_nothing_trains_no_baseline(recipe: Recipe, tmp_path: Path) -> None:
    static = recipe.override({"search.objectives": "parameters,cache_bytes@128", "data.source": "/nowhere"})
    run, watcher = evolve(static, run=tmp_path), Watcher()
    baselines = compare(run, listener=watcher, trial="nowhere:nothing").baselines
    assert watcher.started == watcher.of(CorpusReady) == []
    assert len(watcher.of(CandidateFinished)) == 2
    for baseline in baselines.values():
        assert baseline.status is Status.DONE
        assert baseline.scores == {"parameters": baseline.parameters, "cache_bytes@128": baseline.cache_bytes}
        assert baseline.perplexity is None


def test_unknown_candidates_and_generations_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    run = evolve(recipe, run=tmp_path, workers=2, trial=SCORE)
    with pytest.raises(StarError, match="it has 1 to 14"):
        run.candidate(15)
    with pytest.raises(StarError, match=r"3 generation\(s\) have ended"):
        run.population(4)


def test_the_name_of_a_recipe_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Recipe.load("demo").override({"search.objectives": "parameters", "model.depth": 2})
    run = evolve(recipe)
    assert run.path.parent == Path("runs")
    with pytest.raises(StarError, match="neither a recipe"):
        evolve("dmeo", run=tmp_path / "other")


REAL = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from conftest import small_recipe
from star.synthesis import compare, evolve
recipe = small_recipe(Path(sys.argv[1])).override({{"search.generations": 2, "search.population": 4}})
run = evolve(recipe, run=sys.argv[2], workers=int(sys.argv[3]))
compare(run, workers=2)
"""


def test_real_training_end_to_end(text: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(REAL.format(here=str(Path(__file__).parent)))
    runs = []
    for count in (1, 2):
        subprocess.run([sys.executable, script, text, tmp_path / str(count), str(count)], check=True)
        runs.append(Run.open(tmp_path / str(count)))
    one, two = runs
    assert result(one) == result(two), "real training repeats bit by bit, whatever the number of workers"
    assert {n: b.metrics for n, b in one.baselines.items()} == {n: b.metrics for n, b in two.baselines.items()}
    assert all(c.status is Status.DONE for c in one.candidates)
    assert all(1 < (c.perplexity or 0) < 400 and len(c.curve) == 4 for c in one.candidates)
    assert (tmp_path / "1" / "workers.log").read_text() == ""


def test_other_kernels_than_a_run_began_with_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from star.liv import kernels
    from star.synthesis.events import KernelsChanged, nobody
    from star.synthesis.session import open_session

    told: list[object] = []
    names = iter(["one", "one", "other"])
    monkeypatch.setattr(kernels, "fingerprint", lambda device: next(names))
    recipe = Recipe.load("demo")
    for listener in (nobody, told.append, told.append):
        with open_session(tmp_path / "run", recipe, listener=listener, workers=1, timeout=None) as session:
            session._settle_kernels()
    assert told == [KernelsChanged("one", "other")]
