"""Progress counts candidates, tells the time left, and shows nothing twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from star.cli import progress
from star.cli.watch import Pace, Watch, duration, planned_candidates
from star.synthesis import Candidate, Recipe, Status
from star.synthesis.events import (
    CandidateFinished,
    CandidateLost,
    CandidateStarted,
    CandidateStep,
    CorpusProgress,
    CorpusReady,
    Event,
    GenerationFinished,
    GenerationStarted,
    SearchFinished,
    SearchStarted,
)
from star.training import StepReport

RECIPE = Recipe.load("demo").override({"search.population": 4, "search.generations": 2, "search.elites": 2})


def candidate(number: int, status: Status = Status.PENDING, **facts: object) -> Candidate:
    return Candidate(str(number), "11111", "11111", f"{number:016}", 0, status=status, generation=1, **facts)  # type: ignore[arg-type]


def report(tokens: int) -> StepReport:
    return StepReport(tokens // 10, 10, tokens, 100, 2.5, 1.0, 1e-3, 50.0, (100 - tokens) / 50)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def done(number: int) -> Candidate:
    return candidate(number, Status.DONE, metrics={"perplexity": 10.0 + number})


def search(finished: int = 0) -> list[Event]:
    return [
        SearchStarted(Path("run"), RECIPE, 2, finished),
        CorpusProgress("reading", 1, 2),
        CorpusProgress("reading", 2, 2),
        CorpusReady("a book", 900, 100),
        GenerationStarted(1, tuple(map(candidate, (1, 2, 3, 4)))),
        CandidateStarted(candidate(1), 1),
        CandidateStarted(candidate(2), 1),
        CandidateStep(candidate(1), report(50)),
        CandidateStep(candidate(2), report(100)),
    ]


def test_the_search_plans_a_population_and_then_offspring() -> None:
    assert planned_candidates(RECIPE.search) == 4 + 2
    assert planned_candidates(Recipe.load("demo").search) >= 40


def test_candidates_in_flight_count_by_their_share() -> None:
    watch = Watch()
    for event in search():
        watch(event)
    assert (watch.total, watch.finished, watch.done) == (6, 0, 1.5)
    watch(CandidateFinished(done(2)))
    assert (watch.finished, watch.done, list(watch.running)) == (1, 1.5, ["1"])
    watch(CandidateLost(candidate(1), "it was killed"))
    assert watch.done == 1.0


def test_the_time_left_follows_from_what_this_process_has_done() -> None:
    clock = Clock()
    watch = Watch(Pace(clock))
    for event in search(finished=1)[:4]:
        watch(event)
    assert watch.seconds_left is None, "nothing is known before anything is done"
    watch(CandidateStarted(candidate(2), 1))
    clock.now += 10
    watch(CandidateStep(candidate(2), report(50)))
    assert watch.seconds_left == pytest.approx(10 * (6 - 1.5) / 0.5)


def test_a_result_that_cost_nothing_does_not_speed_up_the_estimate() -> None:
    clock = Clock()
    watch = Watch(Pace(clock))
    watch(GenerationStarted(0, (candidate(1), candidate(2))))
    watch(CandidateFinished(done(1)))
    assert watch.seconds_left is None


def test_a_search_that_ends_early_is_complete() -> None:
    watch = Watch()
    for event in [*search(), CandidateFinished(done(1)), CandidateFinished(done(2)), SearchFinished(1, True)]:
        watch(event)
    assert watch.total == watch.finished == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (75, "1 min 15 s"),
        (7260, "2 h 1 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_durations_have_two_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def events_of_a_whole_run() -> list[Event]:
    failed = replace(candidate(1), status=Status.FAILED, failure="diverged: the loss is nan")
    return [
        *search(),
        CandidateFinished(done(2)),
        CandidateLost(candidate(1), "the worker was killed by SIGKILL"),
        CandidateStarted(candidate(1), 2),
        CandidateFinished(failed),
        GenerationFinished(1, (done(2),), 0.5),
        SearchFinished(1, True),
    ]


def test_a_log_has_a_line_for_each_stage_candidate_and_generation(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.search_progress("candidates") as listener:
        for event in events_of_a_whole_run():
            listener(event)
    lines = capsys.readouterr().err.splitlines()
    assert sum(line == "reading" for line in lines) == 1
    assert any(line.startswith("text: a book; 900 tokens") for line in lines)
    assert any(line.startswith("[1/6] candidate 2: perplexity 12.000") for line in lines)
    assert sum("diverged: the loss is nan" in line for line in lines) == 1
    assert "candidate 1: the worker was killed by SIGKILL; it is tried again" in lines
    assert "generation 1 done: best perplexity 12.000, hypervolume 0.500" in lines
    assert not any("\x1b" in line or len(line) > 200 for line in lines)


def test_bars_show_what_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    console = Console(force_terminal=True, width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with progress.bars(console) as shown:
        bars = progress._Bars(shown, "candidates")
        for event in search():
            bars(event)
        descriptions = [task.description for task in shown.tasks]
        assert descriptions == ["generation 1", "candidate 1", "candidate 2"]
        overall, first, _ = shown.tasks
        assert (overall.completed, overall.total) == (1.5, 6)
        assert overall.fields["note"].startswith("0 of 6, ")
        assert first.completed == 0.5
        assert first.fields["note"] == "loss 2.500, 1 s left"
        for event in events_of_a_whole_run()[len(search()) :]:
            bars(event)
        assert [task.description for task in shown.tasks] == ["generation 1"]


def test_a_long_training_writes_about_twenty_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.training_progress("model") as on_step:
        for step in range(1, 1001):
            on_step(StepReport(step, 1000, step * 10, 10_000, 2.0, 1.0, 1e-3, 100.0, 1.0))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 20
    assert lines[-1].startswith("model: 100 %, step 1000 of 1000")
