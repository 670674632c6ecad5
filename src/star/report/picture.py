"""The front as a small static SVG picture, for a README or a slide."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from star.errors import StarError
from star.report.charts import axis_title, axis_type, done_baselines, value_of
from star.report.page import write_text
from star.report.palette import BASELINE, generation_colour
from star.synthesis import Run, Status, parse_objective
from star.synthesis.objectives import format_bytes, format_count

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 56, 56
MARGIN = 0.06  # of the range, so that no point lies on a border
NARROWEST = 1e-6  # a smaller range, relative to the values, is none

STYLE = (
    "text{fill:#1b1f24;font:13px system-ui,sans-serif}.title{font-size:15px;font-weight:600}.small{font-size:11px}"
    ".axis{stroke:#8a949e;fill:none}.grid{stroke:#8a949e;stroke-opacity:.25}.front{stroke:#8a949e;fill:none;stroke-width:1.5}"
    "@media(prefers-color-scheme:dark){text{fill:#e6e9ec}}"
)


@dataclass(frozen=True)
class Scale:
    """Values to pixels along one axis, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    @classmethod
    def around(cls, values: list[float], start: float, end: float) -> Scale:
        """The scale that shows all `values` with a margin."""
        log = axis_type(values) == "log"
        shown = [math.log10(value) for value in values] if log else values
        low, high = min(shown), max(shown)
        spread = high - low if high - low > NARROWEST * abs(high) else abs(high) or 1.0
        margin = MARGIN * spread
        return cls(low - margin, high + margin, start, end, log)

    def __call__(self, value: float) -> float:
        place = math.log10(value) if self.log else value
        return round(self.start + (place - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Three to eight round values within the scale."""
        if self.log:
            decades = range(math.floor(self.low), math.ceil(self.high) + 1)
            for mantissas in ((1,), (1, 3), (1, 2, 5)):
                found = [m * 10.0**decade for decade in decades for m in mantissas]
                found = [value for value in found if self.low <= math.log10(value) <= self.high]
                if len(found) >= 3:
                    break
            return found
        raw = (self.high - self.low) / 5
        unit = 10 ** math.floor(math.log10(raw))
        step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= raw)
        return [index * step for index in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def write_picture(run: Run, path: Path | str) -> None:
    """Write the front of `run` by its first two objectives. Raises StarError where nothing is trained yet."""
    write_text(Path(path), render_picture(run))


def render_picture(run: Run) -> str:
    """The picture as text."""
    objectives = run.recipe.objectives
    quality = objectives[0]
    other = objectives[1] if len(objectives) > 1 else parse_objective("parameters")
    trained = [candidate for candidate in run.candidates if candidate.status is Status.DONE]
    if not trained:
        raise StarError(f"no candidate of {str(run.path)!r} is trained yet, so there is nothing to draw")
    baselines = done_baselines(run)
    everyone = [*trained, *baselines]
    x = Scale.around([value_of(candidate, other) for candidate in everyone], LEFT, WIDTH - RIGHT)
    y = Scale.around([value_of(candidate, quality) for candidate in everyone], HEIGHT - BOTTOM, TOP)
    last = max(candidate.generation for candidate in trained)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{escape(quality.title)} and {escape(other.title)} of {len(trained)} architectures">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="20">{len(trained)} architectures in {last} generations</text>',
        _colour_key(last),
        *_axes(x, y, axis_title(other), axis_title(quality), _format(other.kind.name), _format(quality.kind.name)),
    ]
    front = sorted(run.front, key=lambda candidate: value_of(candidate, other))
    if len(front) > 1 and len(objectives) == 2:
        corners = [(x(value_of(candidate, other)), y(value_of(candidate, quality))) for candidate in front]
        path = f"M{corners[0][0]} {corners[0][1]}" + "".join(f"H{a}V{b}" for a, b in corners[1:])
        parts.append(f'<path class="front" d="{path}"/>')
    for candidate in trained:
        place = f'cx="{x(value_of(candidate, other))}" cy="{y(value_of(candidate, quality))}"'
        colour = generation_colour(candidate.generation, last)
        parts.append(f'<circle {place} r="4.5" fill="{colour}"><title>candidate {candidate.name}</title></circle>')
    for baseline in baselines:
        across, down = x(value_of(baseline, other)), y(value_of(baseline, quality))
        anchor = "end" if across > WIDTH * 0.7 else "start"
        shift = -10 if anchor == "end" else 10
        parts.append(f'<path d="M{across} {down - 8}l8 8l-8 8l-8 -8z" fill="{BASELINE}"/>')
        parts.append(f'<text x="{across + shift}" y="{down - 8}" text-anchor="{anchor}">{escape(baseline.name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axes(
    x: Scale, y: Scale, x_title: str, y_title: str, x_format: Callable[[float], str], y_format: Callable[[float], str]
) -> list[str]:
    floor, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{floor}H{WIDTH - RIGHT}"/>']
    for tick in x.ticks():
        parts.append(f'<path class="grid" d="M{x(tick)} {TOP}V{floor}"/>')
        parts.append(f'<text class="small" x="{x(tick)}" y="{floor + 16}" text-anchor="middle">{x_format(tick)}</text>')
    for tick in y.ticks():
        parts.append(f'<path class="grid" d="M{LEFT} {y(tick)}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="small" x="{LEFT - 6}" y="{y(tick) + 4}" text-anchor="end">{y_format(tick)}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 14}" text-anchor="middle">{escape(x_title)}</text>'
    )
    parts.append(f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">{escape(y_title)}</text>')
    return parts


def _colour_key(last: int) -> str:
    if last < 2:
        return ""
    shown = sorted({1, *range(1, last + 1, -(-last // 6)), last})
    parts = [f'<text class="small" x="{LEFT}" y="40">generation</text>']
    for place, generation in enumerate(shown):
        across = LEFT + 78 + 34 * place
        parts.append(f'<circle cx="{across}" cy="36" r="4.5" fill="{generation_colour(generation, last)}"/>')
        parts.append(f'<text class="small" x="{across + 8}" y="40">{generation}</text>')
    return "".join(parts)


def _format(kind: str) -> Callable[[float], str]:
    formats = {"parameters": format_count, "cache_bytes": format_bytes}
    full = formats.get(kind, lambda value: f"{value:.6g}")
    return lambda value: re.sub(r"\.0+(?=\D|$)", "", full(value))  # a tick is round: "1 MB", not "1.00 MB"
