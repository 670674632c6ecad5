"""The static picture shows every trained candidate and both baselines, on round ticks."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written_runs import recipe, write_run

from star.errors import StarError
from star.report.picture import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, render_picture
from star.synthesis import Run, Status

SVG = "{http://www.w3.org/2000/svg}"


def test_a_dot_for_each_trained_candidate_within_the_axes(run: Run) -> None:
    picture = ElementTree.fromstring(render_picture(run))
    dots = [dot for dot in picture.iter(f"{SVG}circle") if dot.find(f"{SVG}title") is not None]
    assert len(dots) == sum(candidate.status is Status.DONE for candidate in run.candidates)
    assert all(LEFT <= float(dot.get("cx", "")) <= WIDTH - RIGHT for dot in dots)
    assert all(TOP <= float(dot.get("cy", "")) <= HEIGHT - BOTTOM for dot in dots)


def test_better_candidates_stand_lower_and_further_left(run: Run) -> None:
    picture = ElementTree.fromstring(render_picture(run))
    places = {
        title.text: (float(dot.get("cx", "")), float(dot.get("cy", "")))
        for dot in picture.iter(f"{SVG}circle")
        if (title := dot.find(f"{SVG}title")) is not None
    }
    trained = [candidate for candidate in run.candidates if candidate.status is Status.DONE]
    lightest = min(trained, key=lambda candidate: candidate.cache_bytes)
    best = min(trained, key=lambda candidate: candidate.metrics["perplexity"])
    assert places[f"candidate {lightest.name}"][0] == min(x for x, _ in places.values())
    assert places[f"candidate {best.name}"][1] == max(y for _, y in places.values())


def test_axes_and_baselines_are_named(run: Run) -> None:
    texts = [text.text for text in ElementTree.fromstring(render_picture(run)).iter(f"{SVG}text")]
    assert "Cache at 4,096 tokens (bytes, 2 an element)" in texts
    assert "Perplexity on held-out text (per token)" in texts
    assert {"transformer++", "striped-mamba"} <= set(texts)


def test_one_objective_is_drawn_beside_the_size(tmp_path: Path) -> None:
    with Run.open(write_run(tmp_path / "run", recipe(("perplexity",)), ended=1, baselines=False)) as run:
        assert "Parameters (count, without embeddings)" in render_picture(run)


def test_nothing_trained_is_nothing_to_draw(tmp_path: Path) -> None:
    with (
        Run.open(write_run(tmp_path / "run", recipe(), ended=0, baselines=False)) as run,
        pytest.raises(StarError, match="nothing to draw"),
    ):
        render_picture(run)


@given(st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=20))
@settings(deadline=None)
def test_ticks_are_few_round_and_within_the_axis(values: list[float]) -> None:
    scale = Scale.around(values, 0.0, 500.0)
    ticks = scale.ticks()
    assert len(ticks) <= 20
    assert all(-1e-6 <= scale(tick) <= 500 + 1e-6 for tick in ticks)
    assert all(0 < scale(value) < 500 for value in values)
    spaces = ticks if scale.log else [after - before for before, after in pairwise(ticks)]
    for space in spaces:
        mantissa = space / 10 ** math.floor(math.log10(space) + 1e-9)
        assert min(abs(mantissa - round_one) for round_one in (1, 2, 2.5, 3, 5)) < 1e-3
