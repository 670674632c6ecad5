"""Backbones as inline SVG, as in the paper's appendix B: a box for each LIV, arrows for what is shared.

Solid arrows on the right: featurizer sharing. Dashed arrows on the left: feature-group sharing. Paths of one stage
stand beside each other between a fork of the stream and a join, which names their routing. The output of an earlier
stage that joins the stream again comes down a lane on the left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from star.genome import BackboneGenome, OptionPool, Routing
from star.report.layout import BOX_HEIGHT, LETTER, NODE, PILL, TOP, WIDE, WIDTH, Layout, Place, layout
from star.report.links import Arrow, Link, arrows, links
from star.report.palette import class_colour
from star.report.strokes import bow, head, rounded

LINE = 14  # between labels

ROUTINGS = {Routing.MIXER: "mixer", Routing.LIQUID: "liquid router"}
MEANINGS = {
    Routing.SUM: "their outputs are added",
    Routing.MIXER: "a learned mixer weighs their outputs",
    Routing.LIQUID: "a liquid router weighs their outputs, token by token",
}


def draw_backbone(genome: BackboneGenome, pool: OptionPool, *, label: str) -> str:
    """One SVG element of a valid genome; `label` tells people who cannot see it what it is. Identities are left out.
    Colours follow the page's text colour."""
    genome = genome.without_identities()
    shared, residual = arrows(genome, pool), links(genome)
    plan = layout(genome, pool, shared)
    wide = " wide" if plan.width >= WIDE else ""
    parts = [
        f'<svg class="backbone{wide}" viewBox="0 0 {plan.width:g} {plan.height:g}" width="{plan.width:g}" '
        f'height="{plan.height:g}" role="img" aria-label="{escape(label + _composition(plan, residual))}" '
        'xmlns="http://www.w3.org/2000/svg">',
        _text(plan.centre, TOP - 12, "input"),
        f'<path class="stream" d="{_stream(plan)}"/>',
        *(_residual(link, plan) for link in residual),
    ]
    for place in plan.places:
        boxes = [_box(index, genome, pool, plan) for index in place.stage.livs]
        parts += [_parallel(place, boxes, plan.centre)] if place.parallel else boxes
    before: Counter[tuple[int, bool]] = Counter()
    for arrow in shared:
        parts.append(_arrow(arrow, genome, pool, plan, line=before[arrow.target, arrow.weights]))
        before[arrow.target, arrow.weights] += 1
    parts += [_text(plan.centre, plan.height - 6, "output"), "</svg>"]
    return "".join(parts)


def legend(pool: OptionPool, used: set[int], *, residual: bool = False) -> str:
    """The classes in `used`, with their colours, as HTML; and the arrow of residual links, where there are any."""
    items = [
        f'<li><span class="swatch{" differential" if pool[liv].differential else ""}" '
        f'style="background:{class_colour(pool[liv], pool)}"></span>{escape(pool[liv].name)}</li>'
        for liv in sorted(used)
    ]
    if residual:
        sample = f'<path class="link" d="M0 7H18"/>{head((19, 7), (0, 7))}{_node(25, 7)}'
        items.append(
            f'<li><svg class="key residual" width="31" height="14" aria-hidden="true">{sample}</svg>'
            "the output of an earlier stage joins the stream</li>"
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _composition(plan: Layout, residual: Sequence[Link]) -> str:
    parallel = sum(place.parallel for place in plan.places)
    counts = ((parallel, "stage", " with parallel paths"), (len(residual), "residual link", ""))
    words = [f"{count} {what}{'' if count == 1 else 's'}{more}" for count, what, more in counts if count]
    return f"; {', '.join(words)}" if words else ""


def _stream(plan: Layout) -> str:
    """Down the middle, without the inside of stages with several paths, which have lines of their own."""
    inside = [place for place in plan.places if place.parallel]
    starts = [TOP - 8, *(place.lines[-1].join for place in inside)]
    ends = [*(place.top for place in inside), plan.height - TOP + 8]
    return "".join(f"M{plan.centre:g} {start:g}V{end:g}" for start, end in zip(starts, ends, strict=True))


def _parallel(place: Place, boxes: Iterable[str], centre: float) -> str:
    """The boxes of a stage with the fork before and the join behind them; rails lead to further lines and from them."""
    middles = [box.middle for line in place.lines for box in line.boxes]
    several = len(place.lines) > 1
    left, right = (place.left, place.right) if several else (min(middles), max(middles))
    path = []
    for number, line in enumerate(place.lines):
        ends = [box.middle for box in line.boxes]
        last = number == len(place.lines) - 1
        path.append(f"M{left:g} {line.fork:g}H{max(ends[-1], centre if number == 0 else left):g}")
        path.append(f"M{min(ends[0], centre if last else right):g} {line.join:g}H{right:g}")
        path += [
            f"M{box.middle:g} {line.fork:g}V{box.y:g}M{box.middle:g} {box.foot:g}V{line.join:g}" for box in line.boxes
        ]
    if several:
        first, last_line = place.lines[0], place.lines[-1]
        path.append(f"M{left:g} {first.fork:g}V{last_line.fork:g}M{right:g} {first.join:g}V{last_line.join:g}")
    routing = place.stage.routing
    pill = ""
    if routing in ROUTINGS:
        name = ROUTINGS[routing]
        width, y = LETTER * len(name) + 12, place.lines[-1].join + 4
        pill = (
            f'<g class="routing"><rect x="{centre - width / 2:g}" y="{y:g}" width="{width:g}" height="{PILL}" '
            f'rx="{PILL / 2}"/>{_text(centre, y + PILL - 5, name)}</g>'
        )
    title = f"LIVs {in_words(place.stage.livs)} run in parallel: {MEANINGS[routing]}"
    return (
        f'<g class="stage"><title>{title}</title><path class="stream" d="{"".join(path)}"/>{"".join(boxes)}{pill}</g>'
    )


def _box(index: int, genome: BackboneGenome, pool: OptionPool, plan: Layout) -> str:
    segment, box = genome.segments[index], plan.boxes[index]
    row = pool[segment.liv]
    border = " differential" if row.differential else ""
    return (
        f"<g><title>{escape(f'LIV {index}: {row.name}, operator {row.operator}, segment {segment}')}</title>"
        f'<rect class="liv{border}" x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{BOX_HEIGHT}" rx="4" '
        f'fill="{class_colour(row, pool)}"/>'
        f'<text class="name" x="{box.middle:g}" y="{box.y + BOX_HEIGHT / 2 + 4:g}" text-anchor="middle">'
        f"{escape(_fitted(row.name, box.width))}</text></g>"
    )


def _arrow(arrow: Arrow, genome: BackboneGenome, pool: OptionPool, plan: Layout, *, line: int) -> str:
    """A bow from the lower part of the source to the upper part of the target, with its groups beside the target.

    Where several arrows end at one side of a LIV, the groups of each stand on a `line` of their own.
    """
    entry = plan.entries[arrow]
    names = ", ".join("Δ" if name == "delta" else name for name in arrow.groups)
    what = f"weights of {names}" if arrow.weights else names
    whole = len(arrow.groups) == len(pool[genome.segments[arrow.target].liv].groups)
    (x, y), own_track = entry[-1], len(entry) > 2
    label = _text(
        x + arrow.side * 8,
        y - 3 if own_track else y - 5 + line * LINE,
        names,
        anchor="start" if arrow.side > 0 else "end",
        size=9,
    )
    return (
        f'<g class="{"weights" if arrow.weights else "features"}">'
        f"<title>{escape(f'LIV {arrow.target} uses {what} of LIV {arrow.source}')}</title>"
        f'<path class="bow" d="{bow(plan.exits[arrow.source, arrow.side], entry, arrow.side)}"/>'
        f"{head(entry[0], entry[1] if own_track else (x + arrow.side * WIDTH, y))}{'' if whole else label}</g>"
    )


def _residual(link: Link, plan: Layout) -> str:
    """From the stream below the source by its lane to the stream above the target, where a node adds it."""
    source, target = plan.places[link.source], plan.places[link.target]
    start, end, lane = source.departure, target.arrival, plan.lanes[link.source]
    tip = (plan.centre - NODE - 1, end)
    path = rounded([(plan.centre, start), (lane, start), (lane, end), tip])
    what = f"the output of LIV{_plural(source)} {in_words(source.stage.livs)}"
    title = f"{what} joins the input of LIV{_plural(target)} {in_words(target.stage.livs)}"
    return (
        f'<g class="residual"><title>{title}</title><path class="link" d="{path}"/>'
        f"{head(tip, (lane, end))}{_node(plan.centre, end)}</g>"
    )


def _node(x: float, y: float) -> str:
    arm = NODE - 2
    return (
        f'<circle class="node" cx="{x:g}" cy="{y:g}" r="{NODE}"/>'
        f'<path class="plus" d="M{x - arm:g} {y:g}H{x + arm:g}M{x:g} {y - arm:g}V{y + arm:g}"/>'
    )


def in_words(livs: Sequence[int]) -> str:
    """``3``, or ``3, 4 and 5``."""
    *most, last = map(str, livs)
    return f"{', '.join(most)} and {last}" if most else last


def _plural(place: Place) -> str:
    return "s" if place.parallel else ""


def _fitted(name: str, width: float) -> str:
    """A name that stays inside its box; the title has it whole."""
    room = int((width - 4) / LETTER)
    return name if len(name) <= room else f"{name[: room - 1]}…"


def _text(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 11) -> str:
    return f'<text class="note" x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
