"""The charts hold every candidate, name their axes, and are figures that Plotly accepts."""

from __future__ import annotations

import json
from pathlib import Path

import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written_runs import recipe, write_run

from star.report.charts import CURVE_POINTS, Chart, charts, hover_text, smoothed
from star.synthesis import Run, Status


def by_name(run: Run) -> dict[str, Chart]:
    return {chart.name: chart for chart in charts(run)}


def test_plotly_accepts_every_chart_as_json(run: Run) -> None:
    for chart in charts(run):
        figure = go.Figure(json.loads(json.dumps({"data": chart.data, "layout": chart.layout}, allow_nan=False)))
        assert len(figure.data) == len(chart.data) > 0


def test_every_axis_has_a_title_and_quantities_have_units(run: Run) -> None:
    found = by_name(run)
    titles = {
        name: (chart.layout["xaxis"]["title"]["text"], chart.layout["yaxis"]["title"]["text"])
        for name, chart in found.items()
    }
    assert all(x and y for x, y in titles.values())
    assert titles["front-cache_bytes"] == (
        "Cache at 4,096 tokens (bytes, 2 an element)",
        "Perplexity on held-out text (per token)",
    )
    assert titles["curves"] == ("Training tokens", "Training loss (nats a token)")


def test_the_front_chart_has_one_point_for_each_trained_candidate(run: Run) -> None:
    (points,) = [trace for trace in by_name(run)["front-cache_bytes"].data if trace["name"] == "candidates"]
    trained = [candidate for candidate in run.candidates if candidate.status is Status.DONE]
    assert len(trained) < len(run.candidates), "some have failed"
    assert points["x"] == [candidate.cache_bytes for candidate in trained]
    assert points["y"] == [candidate.perplexity for candidate in trained]
    assert points["marker"]["color"] == [candidate.generation for candidate in trained]


def test_baselines_are_marked_and_named(run: Run) -> None:
    traces = {trace["name"]: trace for trace in by_name(run)["front-cache_bytes"].data}
    for name, baseline in run.baselines.items():
        assert (traces[name]["x"], traces[name]["y"]) == ([baseline.cache_bytes], [baseline.perplexity])
        assert traces[name]["text"] == [name]
    assert traces["transformer++"]["marker"]["symbol"] != traces["striped-mamba"]["marker"]["symbol"]


def test_the_front_line_descends(run: Run) -> None:
    (line,) = [trace for trace in by_name(run)["front-cache_bytes"].data if trace["name"] == "front"]
    assert line["x"] == sorted(line["x"])
    assert line["y"] == sorted(line["y"], reverse=True)


def test_hypervolume_and_best_scores_have_a_value_for_each_generation(run: Run) -> None:
    found = by_name(run)
    assert found["hypervolume"].data[0]["y"] == run.hypervolumes
    best, middle = found["progress-perplexity"].data
    assert best["x"] == [1, 2, 3]
    assert best["y"] == [min(c.perplexity for c in run.population(g) if c.perplexity) for g in (1, 2, 3)]
    assert all(low <= high for low, high in zip(best["y"], middle["y"], strict=True))


def test_every_trained_candidate_and_baseline_has_a_curve(run: Run) -> None:
    names = [trace["name"] for trace in by_name(run)["curves"].data]
    trained = [candidate for candidate in run.candidates if candidate.curve]
    assert names == [*(f"candidate {candidate.name}" for candidate in trained), *run.baselines]


@pytest.mark.parametrize(
    ("objectives", "names"),
    [
        (("perplexity",), {"front-parameters", "hypervolume", "progress-perplexity", "curves"}),
        (
            ("perplexity", "parameters", "cache_bytes@4096"),
            {
                "front-parameters",
                "front-cache_bytes",
                "hypervolume",
                "progress-perplexity",
                "progress-parameters",
                "progress-cache_bytes",
                "curves",
            },
        ),
    ],
)
def test_any_number_of_objectives_has_its_charts(tmp_path: Path, objectives: tuple[str, ...], names: set[str]) -> None:
    with Run.open(write_run(tmp_path / "run", recipe(objectives), ended=2, baselines=True)) as run:
        assert by_name(run).keys() == names


def test_a_run_without_results_has_no_charts(tmp_path: Path) -> None:
    with Run.open(write_run(tmp_path / "run", recipe(), ended=0, baselines=False)) as run:
        assert charts(run) == []


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=2000))
@settings(deadline=None)
def test_thinning_a_curve_keeps_its_end_and_its_range(losses: list[float]) -> None:
    curve = [(10 * step, loss) for step, loss in enumerate(losses, start=1)]
    tokens, values = smoothed(curve)
    assert len(tokens) == len(values) <= CURVE_POINTS
    assert tokens[-1] == curve[-1][0]
    assert tokens == sorted(tokens)
    assert min(losses) - 1e-3 <= min(values) <= max(values) <= max(losses) + 1e-3


def test_the_genome_of_a_composed_candidate_is_told_in_short_lines(composed_run: Run) -> None:
    for candidate in composed_run.candidates:
        lines = hover_text(candidate).split("<br>")
        assert " ".join(lines).endswith(candidate.canonical)
        assert max(map(len, lines)) <= 60
