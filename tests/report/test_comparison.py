"""Who beats a baseline, and by how much."""

from __future__ import annotations

import pytest
from written_runs import recipe

from star.report.comparison import comparison, difference, judge, percent, sentence
from star.synthesis import Candidate, Run, Status

RECIPE = recipe(("perplexity", "cache_bytes@4096"))


def candidate(name: str, perplexity: float, parameters: int, cache: int) -> Candidate:
    return Candidate(
        name, "11111", "11111", name, 0,
        status=Status.DONE, parameters=parameters, cache_bytes=cache,
        scores={"perplexity": perplexity, "cache_bytes@4096": float(cache)}, metrics={"perplexity": perplexity},
    )  # fmt: skip


BASELINE = candidate("transformer++", 10.0, 100, 1000)


def test_differences_are_relative_to_the_baseline() -> None:
    change = difference(candidate("1", 9.0, 150, 250), BASELINE)
    assert change.perplexity == pytest.approx(-0.1)
    assert change.parameters == pytest.approx(0.5)
    assert change.cache_bytes == pytest.approx(-0.75)


def test_a_candidate_beats_a_baseline_if_it_is_nowhere_worse_and_better_in_one_objective() -> None:
    everything = candidate("1", 9.0, 150, 900)
    equal_but_lighter = candidate("2", 10.0, 150, 900)
    smaller = candidate("3", 9.9, 99, 5000)
    neither = candidate("4", 9.0, 100, 1001)
    the_same = candidate("5", 10.0, 100, 1000)
    verdict = judge((everything, equal_but_lighter, smaller, neither, the_same), BASELINE, RECIPE)
    assert verdict.dominating == (everything, equal_but_lighter)


def test_the_sentence_names_winners_and_the_best_ones_figures() -> None:
    verdict = judge((candidate("7", 9.0, 90, 250), candidate("8", 9.5, 80, 5000)), BASELINE, RECIPE)
    assert sentence(verdict, RECIPE) == (
        "transformer++ is beaten in every objective by candidate 7; candidate 7 has perplexity −10.0 %, "
        "cache_bytes@4096 −75.0 %."
    )


def test_the_sentence_says_plainly_that_nobody_wins() -> None:
    verdict = judge((candidate("7", 11.0, 90, 250),), BASELINE, RECIPE)
    assert sentence(verdict, RECIPE).startswith("No candidate beats transformer++")


def test_a_failed_baseline_is_not_beaten() -> None:
    failed = Candidate("transformer++", "1", "1", "1", 0, status=Status.FAILED, failure="diverged", parameters=100)
    verdict = judge((candidate("7", 9.0, 90, 250),), failed, RECIPE)
    assert verdict.dominating == ()
    assert "failed (diverged)" in sentence(verdict, RECIPE)


def test_a_cache_of_nothing_has_no_relative_size() -> None:
    assert difference(candidate("1", 9.0, 90, 0), BASELINE).cache_bytes == -1
    assert difference(BASELINE, candidate("1", 9.0, 90, 0)).cache_bytes is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (None, "–"),
        (0.0, "+0.0"),
        (-0.1234, "−12.3"),
        (12.3456, "+1235"),
        (-0.99951, "−99.95"),
        (-0.99999, "−99.99"),
        (-1.0, "−100.0"),
    ],
)
def test_percentages_never_round_to_everything(change: float | None, text: str) -> None:
    assert percent(change) == text


def test_a_run_is_compared_with_both_baselines(run: Run) -> None:
    found = comparison(run)
    assert [baseline.name for baseline in found.baselines] == ["transformer++", "striped-mamba"]
    assert list(found.front) == run.front
    assert [verdict.baseline for verdict in found.verdicts] == list(found.baselines)
