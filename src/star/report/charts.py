"""Interactive charts as Plotly figures in plain data: what `Plotly.newPlot` and `plotly.graph_objects.Figure` take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from star.report.palette import BASELINE, FRONT, SCALE, generation_colour
from star.synthesis import Candidate, Objective, Run, Status, parse_objective
from star.synthesis.run import score_row

SMOOTHING = 0.9  # of the curves, as in the monitor of divergence
CURVE_POINTS = 200
MOST_CURVES = 120
HOVER_LETTERS = 60  # of a genome in a line
LOG_RATIO = 20.0  # an axis that spans more than this is logarithmic

UNITS = {
    "perplexity": "Perplexity on held-out text (per token)",
    "parameters": "Parameters (count, without embeddings)",
    "cache_bytes": "Cache at {length:,} tokens (bytes, 2 an element)",
}


@dataclass(frozen=True)
class Chart:
    """A Plotly figure with what stands around it."""

    name: str
    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]


def axis_title(objective: Objective) -> str:
    """What an objective is, with its unit."""
    pattern = UNITS.get(objective.kind.name, objective.title)
    return pattern.format(length=objective.length or 0)


def charts(run: Run) -> list[Chart]:
    """Every chart of a run, those without data left out."""
    objectives = run.recipe.objectives
    quality, others = objectives[0], objectives[1:]
    if not others:  # a search for one objective is shown beside the size
        others = [parse_objective("parameters")] if quality.name != "parameters" else []
    found = [front_chart(run, quality, other) for other in others]
    if run.generations:
        found += [hypervolume_chart(run), *(progress_chart(run, objective) for objective in objectives)]
    found.append(curve_chart(run))
    return [chart for chart in found if chart.data]


def front_chart(run: Run, quality: Objective, other: Objective) -> Chart:
    """Every trained candidate by two objectives, coloured by generation; the front, and the baselines if there are."""
    trained = [candidate for candidate in run.candidates if candidate.status is Status.DONE]
    last = max((candidate.generation for candidate in trained), default=1)
    data: list[dict[str, Any]] = []
    if trained:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "candidates",
                "x": [value_of(candidate, other) for candidate in trained],
                "y": [value_of(candidate, quality) for candidate in trained],
                "text": [hover_text(candidate) for candidate in trained],
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {
                    "size": 9,
                    "color": [candidate.generation for candidate in trained],
                    "colorscale": [[place / (len(SCALE) - 1), colour] for place, colour in enumerate(SCALE)],
                    "cmin": 1,
                    "cmax": max(2, last),
                    "showscale": last > 1,
                    "colorbar": {
                        "title": {"text": "Generation"},
                        "orientation": "h",
                        "y": 1.0,
                        "yanchor": "bottom",
                        "thickness": 10,
                        "tickformat": "d",
                        "dtick": _step(last),
                    },
                    "line": {"width": 0.5, "color": FRONT},
                },
            }
        )
    front = sorted(run.front, key=lambda candidate: value_of(candidate, other))
    if len(front) > 1 and len(run.recipe.objectives) == 2:
        data.insert(
            0,
            {
                "type": "scatter",
                "mode": "lines",
                "name": "front",
                "x": [value_of(candidate, other) for candidate in front],
                "y": [value_of(candidate, quality) for candidate in front],
                "line": {"shape": "hv", "color": FRONT, "width": 1.5},
                "hoverinfo": "skip",
            },
        )
    baselines = done_baselines(run)
    middle = median([value_of(candidate, other) for candidate in [*trained, *baselines]] or [0.0])
    for baseline, symbol in zip(baselines, ("star", "diamond"), strict=False):
        across = value_of(baseline, other)
        data.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": baseline.name,
                "x": [across],
                "y": [value_of(baseline, quality)],
                "text": [baseline.name],
                "textposition": "top left" if across >= middle else "top right",  # inside the chart
                "hovertext": [hover_text(baseline)],
                "hovertemplate": "%{hovertext}<extra></extra>",
                "marker": {"size": 14, "symbol": symbol, "color": BASELINE},
            }
        )
    values = [x for trace in data for x in trace["x"]]
    return Chart(
        f"front-{other.kind.name}",
        f"Front: {quality.title} and {other.title}",
        "One point for each trained candidate; lower left is better. The grey line joins the front of the last "
        "population." + (" Marked: the baselines, trained alike." if run.baselines else ""),
        data,
        {
            "xaxis": {"title": {"text": axis_title(other)}, "type": axis_type(values)},
            "yaxis": {"title": {"text": axis_title(quality)}},
            "hovermode": "closest",
            "showlegend": False,
        },
    )


def hypervolume_chart(run: Run) -> Chart:
    """How much of the objectives' space each population dominates."""
    volumes = run.hypervolumes
    return Chart(
        "hypervolume",
        "Hypervolume of each population",
        "The volume that a population dominates, in units of the box between the best scores of the first "
        "generation and a reference point a little beyond its worst. Higher is better.",
        [_line(list(range(1, len(volumes) + 1)), volumes, "hypervolume", SCALE[2])],
        {"xaxis": _generations(len(volumes)), "yaxis": {"title": {"text": "Hypervolume (first generation's box = 1)"}}},
    )


def progress_chart(run: Run, objective: Objective) -> Chart:
    """The best and the median score of each population."""
    places = [name.name for name in run.recipe.objectives].index(objective.name)
    best, middle = [], []
    for generation in range(1, run.generations + 1):
        rows = [score_row(candidate, run.recipe.search.objectives) for candidate in run.population(generation)]
        scores = [row[places] for row in rows if row is not None]
        best.append(min(scores) if scores else None)
        middle.append(median(scores) if scores else None)
    count = list(range(1, run.generations + 1))
    return Chart(
        f"progress-{objective.kind.name}",
        f"{objective.title} of each population",
        "Lower is better.",
        [_line(count, best, "best", SCALE[1]), _line(count, middle, "median", SCALE[3], dash="dot")],
        {"xaxis": _generations(run.generations), "yaxis": {"title": {"text": axis_title(objective)}}},
    )


def curve_chart(run: Run) -> Chart:
    """The training loss of every candidate, smoothed; front and baselines drawn out."""
    front = {candidate.name for candidate in run.front}
    curved = [candidate for candidate in run.candidates if candidate.curve]
    if len(curved) > MOST_CURVES:
        keep = front | {candidate.name for candidate in run.last_population}
        curved = [candidate for candidate in curved if candidate.name in keep]
    last = max((candidate.generation for candidate in curved), default=1)
    data: list[dict[str, Any]] = []
    for candidate in [*curved, *(baseline for baseline in done_baselines(run) if baseline.curve)]:
        x, y = smoothed(candidate.curve)
        baseline, chosen = candidate.generation == 0, candidate.name in front
        colour = BASELINE if baseline else generation_colour(candidate.generation, last)
        dash = "solid" if not baseline else "dash" if candidate.name.startswith("t") else "dot"
        label = candidate.name if baseline else f"candidate {candidate.name}"
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": label,
                "x": x,
                "y": y,
                "opacity": 1.0 if baseline or chosen else 0.35,
                "line": {"width": 2 if baseline or chosen else 1, "color": colour, "dash": dash},
                "hovertemplate": f"{label}<br>%{{x:,}} tokens: %{{y:.3f}} nats<extra></extra>",
            }
        )
    return Chart(
        "curves",
        "Training curves",
        f"Training loss, smoothed over about {round(1 / (1 - SMOOTHING))} steps, coloured by generation as above. "
        "Strong lines: the front; red: the baselines.",
        data,
        {
            "xaxis": {"title": {"text": "Training tokens"}},
            "yaxis": {"title": {"text": "Training loss (nats a token)"}},
            "hovermode": "closest",
            "showlegend": False,
        },
    )


def smoothed(curve: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """Tokens and exponentially smoothed losses, thinned to at most `CURVE_POINTS` points; the last one stays."""
    average = 0.0
    points = []
    for step, (tokens, loss) in enumerate(curve, start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        points.append((tokens, round(average / (1 - SMOOTHING**step), 4)))
    stride = -(-len(points) // CURVE_POINTS) or 1
    kept = points[::-stride][::-1]
    return [tokens for tokens, _ in kept], [loss for _, loss in kept]


def done_baselines(run: Run) -> list[Candidate]:
    """The baselines that could be measured."""
    return [baseline for baseline in run.baselines.values() if baseline.status is Status.DONE]


def value_of(candidate: Candidate, objective: Objective) -> float:
    """A score, or what stands for it where it is no objective of the search."""
    if objective.name in candidate.scores:
        return candidate.scores[objective.name]
    return float(candidate.parameters)


def hover_text(candidate: Candidate) -> str:
    """What is told of a point: name, scores, parents, genome in lines."""
    from star.synthesis.objectives import format_bytes, format_count

    label = candidate.name if candidate.id is None else f"candidate {candidate.name}, generation {candidate.generation}"
    size = f"{format_count(candidate.parameters)} parameters, {format_bytes(candidate.cache_bytes)} cache"
    quality = "" if candidate.perplexity is None else f"perplexity {candidate.perplexity:.3f}<br>"
    parents = f"<br>parents {', '.join(candidate.parents)}" if candidate.parents else ""
    words = candidate.canonical.split()
    count = max(1, min(6, HOVER_LETTERS // (1 + max(map(len, words)))))
    lines = "<br>".join(" ".join(words[start : start + count]) for start in range(0, len(words), count))
    return f"<b>{label}</b><br>{quality}{size}{parents}<br>{lines}"


def axis_type(values: Sequence[float]) -> str:
    """`log` where the values are positive and span more than `LOG_RATIO`."""
    return "log" if values and min(values) > 0 and max(values) > LOG_RATIO * min(values) else "linear"


def _line(
    x: Sequence[float], y: Sequence[float | None], name: str, colour: str, *, dash: str = "solid"
) -> dict[str, Any]:
    line = {"color": colour, "width": 2, "dash": dash}
    return {"type": "scatter", "mode": "lines+markers", "name": name, "x": list(x), "y": list(y), "line": line}


def _generations(count: int) -> dict[str, Any]:
    return {"title": {"text": "Generation"}, "dtick": _step(count), "tickformat": "d"}


def _step(count: int) -> int:
    return max(1, count // 10)
