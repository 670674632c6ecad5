"""Backbones as inline SVG, as in the paper's appendix B: a box for each LIV, arrows for what is shared.

Solid arrows on the right: featurizer sharing. Dashed arrows on the left: feature-group sharing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from html import escape

from star.genome import BackboneGenome, OptionPool, wiring
from star.report.palette import class_colour

BOX_WIDTH, BOX_HEIGHT, GAP = 128, 22, 10
SIDE = 92  # room for arrows on each side
TOP = 26
REACH, REACH_PER_STEP = 16, 9  # how far an arrow bends out, and how much further for each LIV that it passes
EDGE = 4
LINE = 14  # between labels

WIDTH = BOX_WIDTH + 2 * SIDE


@dataclass(frozen=True)
class Arrow:
    """LIV `target` uses `groups` of LIV `source`: their weights (featurizer sharing), or the tensors themselves."""

    source: int
    target: int
    groups: tuple[str, ...]
    weights: bool


def arrows(genome: BackboneGenome, pool: OptionPool) -> list[Arrow]:
    """Everything that is shared in a valid genome, one arrow for each pair and kind."""
    wires = wiring(genome, pool)
    found: dict[tuple[int, int, bool], list[str]] = {}
    for index, (owners, taken) in enumerate(zip(wires.owners, wires.taken, strict=True)):
        for name, owner in owners.items():
            if owner != index:
                found.setdefault((owner, index, True), []).append(name)
        for name, source in taken.items():
            found.setdefault((source, index, False), []).append(name)
    return [Arrow(source, target, tuple(groups), weights) for (source, target, weights), groups in found.items()]


def draw_backbone(genome: BackboneGenome, pool: OptionPool, *, label: str) -> str:
    """One SVG element; `label` tells people who cannot see it what it is. Colours follow the page's text colour."""
    depth = genome.depth
    height = TOP + depth * (BOX_HEIGHT + GAP) + TOP - GAP
    centre = WIDTH / 2
    parts = [
        f'<svg class="backbone" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'aria-label="{escape(label)}" xmlns="http://www.w3.org/2000/svg">',
        _text(centre, TOP - 12, "input"),
        f'<path class="stream" d="M{centre} {TOP - 8}V{height - TOP + 8}"/>',
    ]
    for index, segment in enumerate(genome):
        row = pool[segment.liv]
        top = _top(index)
        border = " differential" if row.differential else ""
        parts.append(
            f"<g><title>{escape(f'LIV {index}: {row.name}, operator {row.operator}, segment {segment}')}</title>"
            f'<rect class="liv{border}" x="{SIDE}" y="{top}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="4" '
            f'fill="{class_colour(row, pool)}"/>'
            f'<text class="name" x="{centre}" y="{top + BOX_HEIGHT / 2 + 4}" text-anchor="middle">'
            f"{escape(row.name)}</text></g>"
        )
    before: Counter[tuple[int, bool]] = Counter()
    for arrow in arrows(genome, pool):
        parts.append(_arrow(arrow, genome, pool, line=before[arrow.target, arrow.weights]))
        before[arrow.target, arrow.weights] += 1
    parts += [_text(centre, height - 6, "output"), "</svg>"]
    return "".join(parts)


def _top(index: int) -> int:
    return TOP + index * (BOX_HEIGHT + GAP)


def _arrow(arrow: Arrow, genome: BackboneGenome, pool: OptionPool, *, line: int) -> str:
    """A bow from the lower part of the source to the upper part of the target, with its groups beside the target.

    Where several arrows end at one side of a LIV, the groups of each stand on a `line` of their own.
    """
    side = 1 if arrow.weights else -1
    edge = WIDTH / 2 + side * BOX_WIDTH / 2
    start, end = _top(arrow.source) + BOX_HEIGHT * 0.65, _top(arrow.target) + BOX_HEIGHT * 0.35
    # A cubic Bézier with both control points at `bend` comes three quarters as far.
    bend = edge + side * min(SIDE - EDGE, REACH + REACH_PER_STEP * (arrow.target - arrow.source)) / 0.75
    kind = "weights" if arrow.weights else "features"
    names = ", ".join("Δ" if name == "delta" else name for name in arrow.groups)
    what = f"weights of {names}" if arrow.weights else names
    title = f"LIV {arrow.target} uses {what} of LIV {arrow.source}"
    tip = edge + side
    head = f"M{tip + side * 7} {end - 4}L{tip} {end}L{tip + side * 7} {end + 4}"
    whole = len(arrow.groups) == len(pool[genome.segments[arrow.target].liv].groups)
    label = (
        ""
        if whole
        else _text(edge + side * 9, end - 5 + line * LINE, names, anchor="start" if side > 0 else "end", size=9)
    )
    return (
        f'<g class="{kind}"><title>{escape(title)}</title>'
        f'<path class="bow" d="M{edge} {start}C{bend} {start} {bend} {end} {tip} {end}"/>'
        f'<path class="head" d="{head}"/>{label}</g>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 11) -> str:
    return f'<text class="note" x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'


def legend(pool: OptionPool, used: set[int]) -> str:
    """The classes in `used`, with their colours, as HTML."""
    items = [
        f'<li><span class="swatch{" differential" if pool[liv].differential else ""}" '
        f'style="background:{class_colour(pool[liv], pool)}"></span>{escape(pool[liv].name)}</li>'
        for liv in sorted(used)
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'
