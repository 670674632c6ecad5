"""The report: one HTML file that needs neither network nor server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from html import escape
from importlib import resources
from pathlib import Path

from star.errors import StarError
from star.genome import Extension, Stage, stages
from star.report.charts import Chart, charts, done_baselines
from star.report.comparison import inheritance_note, judge, sentence
from star.report.drawing import draw_backbone, legend
from star.synthesis import Candidate, Run, Status
from star.synthesis.objectives import format_bytes, format_count

NOTHING = "–"


def write_report(run: Run, path: Path | str) -> None:
    """Write the report of `run`, also of one that is not finished. Raises StarError where `path` cannot be written."""
    write_text(Path(path), render(run))


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise StarError(f"{str(path)!r} cannot be written ({error.strerror or error}); choose another file") from None


def render(run: Run) -> str:
    """The page as text."""
    from plotly.offline import get_plotlyjs

    name = run.path.resolve().name
    sections = [
        ("Summary", _summary(run)),
        ("Front", _front(run)),
        ("Charts", "".join(map(_figure, charts(run)))),
        ("Backbones", _drawings(run)),
        ("Candidates", _all_candidates(run)),
        ("Recipe", f"<pre>{escape(run.recipe.to_toml())}</pre>"),
    ]
    links = "".join(f'<a href="#{title.lower()}">{title}</a>' for title, _ in sections)
    body = "".join(f'<section id="{title.lower()}"><h2>{title}</h2>{content}</section>' for title, content in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>STAR: {escape(name)}</title>\n"
        '<link rel="icon" href="data:,">\n'
        f"<style>\n{_asset('page.css')}</style>\n"
        f"<script>{get_plotlyjs()}</script>\n</head>\n<body>\n"
        f"<header><h1>STAR: {escape(name)}</h1><nav>{links}</nav></header>\n<main>{body}</main>\n"
        f"<script>\n{_asset('page.js')}</script>\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return resources.files("star.report").joinpath("assets", name).read_text(encoding="utf-8")


def _summary(run: Run) -> str:
    recipe, candidates = run.recipe, run.candidates
    failed = sum(candidate.status is Status.FAILED for candidate in candidates)
    volumes = run.hypervolumes
    tokens = recipe.training.steps * recipe.training.step_tokens
    at_most = "up to " if recipe.inheritance is not None and recipe.inheritance.discount else ""
    most = "up to " if Extension.DEPTH in recipe.pool.extensions else ""
    facts = {
        "State": f"{run.state.value}, {run.generations} of {recipe.search.generations} generations",
        "Candidates": f"{len(candidates)}" + (f", {failed} failed" if failed else ""),
        "Objectives": ", ".join(objective.title for objective in recipe.objectives),
        "Architecture": f"{most}{recipe.model.depth} LIVs, width {recipe.model.width}",
        "Training of each": f"{at_most}{format_count(tokens)} tokens" if recipe.needs_training else "none",
        "Hypervolume": f"{volumes[0]:.3f} → {volumes[-1]:.3f}" if volumes else NOTHING,
    }
    listed = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items())
    text = f'<p class="quiet">Text: {escape(run.corpus)}.</p>' if run.corpus else ""
    verdicts = [
        sentence(judge(tuple(run.front), baseline, recipe), recipe)
        for baseline in run.baselines.values()
        if baseline.status is not Status.PENDING
    ]
    if verdicts and (note := inheritance_note(tuple(run.front), recipe)):
        verdicts.append(note)
    claims = "".join(f"<li>{escape(verdict)}</li>" for verdict in verdicts)
    return f'<dl class="facts">{listed}</dl>{text}' + (f"<ul>{claims}</ul>" if claims else "")


def _front(run: Run) -> str:
    front = run.front
    if not front:
        return f"<p>{_why_no_front(run)}.</p>"
    caption = "The non-dominated candidates of the last population" + (", and the baselines" if run.baselines else "")
    return f'<p class="quiet">{caption}.</p>' + _table(run, [*front, *run.baselines.values()], run.baselines.keys())


def _why_no_front(run: Run) -> str:
    return "No candidate keeps to all constraints" if run.generations else "No generation has ended yet"


def _all_candidates(run: Run) -> str:
    candidates = run.candidates
    table = _table(run, candidates, ())
    return f"<details><summary>All {len(candidates)} candidates, in the order of their birth</summary>{table}</details>"


def _table(run: Run, candidates: Sequence[Candidate], marked: Iterable[str]) -> str:
    cache = f"Cache at {run.recipe.cache_length:,}"
    numbers = ("Perplexity", "Parameters", cache)
    head = "<th>Candidate</th>" + "".join(f'<th class="number">{name}</th>' for name in (*numbers, "Generation"))
    head += "<th>Parents</th><th>Genome</th>"
    marked = set(marked)
    rows = []
    for candidate in candidates:
        if candidate.status is Status.FAILED:
            quality = "failed"
        else:
            quality = NOTHING if candidate.perplexity is None else f"{candidate.perplexity:.3f}"
        cells = [
            f"<td>{escape(candidate.name)}</td>",
            f'<td class="number">{quality}</td>',
            f'<td class="number">{format_count(candidate.parameters)}</td>',
            f'<td class="number">{format_bytes(candidate.cache_bytes)}</td>',
            f'<td class="number">{candidate.generation or NOTHING}</td>',
            f"<td>{escape(', '.join(candidate.parents)) or NOTHING}</td>",
            f'<td class="genome">{escape(candidate.canonical)}'
            + (f"<br>{escape(candidate.failure)}" if candidate.failure else "")
            + "</td>",
        ]
        kind = ' class="baseline"' if candidate.name in marked else ""
        rows.append(f"<tr{kind}>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _figure(chart: Chart) -> str:
    # "<" would end the script element early if a text held "</script>".
    data = json.dumps({"data": chart.data, "layout": chart.layout}, ensure_ascii=False).replace("<", "\\u003c")
    return (
        f"<figure><h3>{escape(chart.title)}</h3>"
        f'<div class="chart" id="{escape(chart.name)}" role="img" aria-label="{escape(chart.title)}"></div>'
        f'<script type="application/json">{data}</script>'
        f"<figcaption>{escape(chart.caption)}</figcaption></figure>"
    )


def _drawings(run: Run) -> str:
    front = run.front
    if not front:
        return f"<p>{_why_no_front(run)}.</p>"
    figures = []
    used: set[int] = set()
    composed: list[Stage] = []
    for candidate in [*front, *done_baselines(run)]:
        genome, pool = run.architecture(candidate)
        genome = genome.without_identities()
        composed += stages(genome)
        if candidate.id is not None:
            used |= {segment.liv for segment in genome}
        size = f"{format_count(candidate.parameters)} parameters, {format_bytes(candidate.cache_bytes)} cache"
        if Extension.DEPTH in pool.extensions:
            size = f"{genome.depth} LIV{'' if genome.depth == 1 else 's'}, {size}"
        quality = "" if candidate.perplexity is None else f"perplexity {candidate.perplexity:.3f}, "
        label = candidate.name if candidate.id is None else f"Candidate {candidate.name}"
        drawing = draw_backbone(genome, pool, label=f"Backbone of {label}: {genome}")
        figures.append(f"<figure>{drawing}<figcaption><b>{escape(label)}</b><br>{quality}{size}</figcaption></figure>")
    paths = (
        " Boxes beside each other: LIVs with the same input, whose outputs are added; a mixer or a liquid router "
        "weighs them where one is named."
        if any(len(stage.livs) > 1 for stage in composed)
        else ""
    )
    key = legend(run.pool, used, residual=any(stage.source is not None for stage in composed))
    return (
        '<p class="quiet">One box for each LIV, first LIV on top; pink borders mark differentials. Solid arrows on the '
        "right: the weights of feature groups are shared. Dashed arrows on the left: the features themselves are "
        f'shared, and stored once in the cache.{paths}</p>{key}<div class="drawings">{"".join(figures)}</div>'
    )
