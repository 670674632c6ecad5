"""Where everything stands in the drawing of a backbone: boxes, the stream around them, and the ways of the arrows.

From left to right: room for the bows of feature-group sharing, lanes of residual links, the boxes, room for the bows of
featurizer sharing. The bows start and end on a rim. Between rim and box an arrow runs level; a box with others between
it and the rim is left through its floor and reached through its ceiling, on tracks of its own beside the line of boxes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from star.genome import BackboneGenome, OptionPool, Routing, Stage, stages
from star.report.links import Arrow, links

BOX_WIDTH, BOX_HEIGHT, GAP = 128, 22, 10
SIDE = 92  # room for bows on each side
TOP = 26
WIDTH = BOX_WIDTH + 2 * SIDE  # of a drawing without parallel paths and residual links
WIDE, MARGIN = 1.5 * WIDTH, 12  # what is wider needs the room of two, and has no room for bows where there are none

ABREAST = 4  # boxes in a line; of more paths, the stage has several lines
SLIMMEST, LETTER, SPACE = 56, 6.2, 10  # of boxes beside each other: width, width of a letter, what lies between them
DROP, RAIL = 8, 9  # from a fork to the boxes; from the boxes to what feeds further lines
TRACK_IN, TRACK_OUT, CORNER = 11, 5, 8  # between tracks, the upper ones with labels; from a box's corner to its arrows
LEAVES, REACHES = 0.65, 0.35  # where arrows touch a box, as shares of its height
TIP = 1  # between an arrow head and its box
LANE = 7
DEPARTURE, ARRIVAL, NODE = 6, 9, 5  # of residual links: below the source, above the target; radius of the sum
BEFORE, AFTER = 4, 12  # how much wider a gap is where such a link leaves, and where one joins
PILL = 17  # height of a routing's name

Point = tuple[float, float]
Route = tuple[Point, ...]  # from a box to the rim


@dataclass(frozen=True)
class Box:
    """Of one LIV; `left` and `right` count the boxes beside it."""

    liv: int
    x: float
    y: float
    width: float
    left: int
    right: int

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    @property
    def foot(self) -> float:
        return self.y + BOX_HEIGHT

    def edge(self, side: int) -> float:
        """The right (1) or left (-1) end."""
        return self.x + self.width if side > 0 else self.x

    def between(self, side: int) -> int:
        """How many boxes stand between this one and the rim."""
        return self.right if side > 0 else self.left


@dataclass(frozen=True)
class Line:
    """Boxes beside each other, between the fork above and the join below."""

    boxes: tuple[Box, ...]
    fork: float
    join: float


@dataclass(frozen=True)
class Place:
    """Of one stage: the stream enters at `top` and goes on from `bottom`. left, right: its rails, if it has lines."""

    stage: Stage
    lines: tuple[Line, ...]
    top: float
    bottom: float
    left: float
    right: float

    @property
    def parallel(self) -> bool:
        return len(self.stage.livs) > 1

    @property
    def departure(self) -> float:
        """Where residual links from its output leave the stream."""
        return self.bottom + DEPARTURE

    @property
    def arrival(self) -> float:
        """Where a residual link to its input joins the stream."""
        return self.top - ARRIVAL


@dataclass(frozen=True)
class Layout:
    """The whole drawing. boxes: by LIV. places: by stage. exits: by LIV and side. entries: by arrow. lanes: by source
    stage, where its residual links run down."""

    width: float
    height: float
    centre: float
    boxes: tuple[Box, ...]
    places: tuple[Place, ...]
    exits: dict[tuple[int, int], Route]
    entries: dict[Arrow, Route]
    lanes: dict[int, float]


def layout(genome: BackboneGenome, pool: OptionPool, shared: Sequence[Arrow]) -> Layout:
    """Lay out a valid genome without identities, and the arrows `shared` between its LIVs."""
    composed = stages(genome)
    lanes = lane_numbers(genome)
    lanes_width = LANE * (max(lanes.values()) + 1) + LANE if lanes else 0
    names = [pool[genome.segments[liv].liv].name for stage in composed if len(stage.livs) > 1 for liv in stage.livs]
    slim = min(BOX_WIDTH, max(SLIMMEST, ceil(LETTER * max(map(len, names), default=0)) + SPACE))
    rows = [in_lines(stage.livs) for stage in composed]
    middle = max(_across(row, slim) for row in rows)
    wide = 2 * SIDE + lanes_width + middle >= WIDE
    left, right = (MARGIN if wide and all(arrow.side != side for arrow in shared) else SIDE for side in (-1, 1))
    start = left + lanes_width
    layer = _Layer(shared, start + middle / 2, slim, {-1: left, 1: start + middle})
    y: float = TOP
    places: list[Place] = []
    for index, (stage, row) in enumerate(zip(composed, rows, strict=True)):
        if index:
            y += GAP + (BEFORE if index - 1 in lanes else 0) + (0 if stage.source is None else AFTER)
        places.append(layer.place(stage, row, y))
        y = places[-1].bottom
    return Layout(
        width=start + middle + right,
        height=y + TOP,
        centre=layer.centre,
        boxes=tuple(
            sorted((box for place in places for line in place.lines for box in line.boxes), key=lambda box: box.liv)
        ),
        places=tuple(places),
        exits=layer.exits,
        entries=layer.entries,
        lanes={source: start - LANE * (lane + 1) for source, lane in lanes.items()},
    )


def in_lines(livs: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The paths of a stage in as few lines as hold them, equally long but for the last."""
    count = -(-len(livs) // ABREAST)
    length = -(-len(livs) // count)
    return [livs[start : start + length] for start in range(0, len(livs), length)]


def lane_numbers(genome: BackboneGenome) -> dict[int, int]:
    """By source stage, the lane of its residual links: those that run beside each other have different ones, and short
    ones are nearest to the boxes, 0."""
    last: dict[int, int] = {}
    for link in links(genome):
        last[link.source] = link.target  # targets ascend
    lanes: dict[int, int] = {}
    for source in sorted(last, key=lambda source: (last[source] - source, source)):
        taken = {lane for other, lane in lanes.items() if max(source, other) < min(last[source], last[other])}
        lanes[source] = next(lane for lane in range(len(last)) if lane not in taken)
    return lanes


class _Layer:
    """Lays stage after stage, and collects the ways of the arrows."""

    def __init__(self, shared: Sequence[Arrow], centre: float, slim: float, rims: dict[int, float]) -> None:
        self.shared, self.centre, self.slim, self.rims = shared, centre, slim, rims
        self.exits: dict[tuple[int, int], Route] = {}
        self.entries: dict[Arrow, Route] = {}

    def place(self, stage: Stage, rows: list[tuple[int, ...]], top: float) -> Place:
        """The stage with its first line at `top`."""
        half = _across(rows, self.slim) / 2
        lines: list[Line] = []
        y = top
        for row in rows:
            lines.append(self._line(row, y, parallel=len(stage.livs) > 1))
            y = lines[-1].join + DROP
        bottom = lines[-1].join + (0 if stage.routing is Routing.SUM else PILL + 4)
        return Place(stage, tuple(lines), top, bottom, self.centre - half, self.centre + half)

    def _line(self, row: tuple[int, ...], fork: float, *, parallel: bool) -> Line:
        incoming = [arrow for arrow in self.shared if arrow.target in row and _between(row, arrow.target, arrow.side)]
        outgoing = {(a.source, a.side) for a in self.shared if a.source in row and _between(row, a.source, a.side)}
        width = self.slim if parallel else BOX_WIDTH
        y = fork + (DROP + TRACK_IN * len(incoming) if parallel else 0)
        x = self.centre - (len(row) * (width + SPACE) - SPACE) / 2
        boxes = tuple(
            Box(liv, x + place * (width + SPACE), y, width, place, len(row) - 1 - place)
            for place, liv in enumerate(row)
        )
        self._route({box.liv: box for box in boxes}, incoming, outgoing)
        join = y + BOX_HEIGHT + (DROP + TRACK_OUT * len(outgoing) if parallel else 0)
        return Line(boxes, fork, join)

    def _route(self, boxes: dict[int, Box], incoming: Sequence[Arrow], outgoing: set[tuple[int, int]]) -> None:
        """Ways between these boxes and the rims. The nearer a box is to its rim, the nearer its track is to the line,
        so that no two ways on one side cross."""
        for arrow in self.shared:
            for liv, height in ((arrow.source, LEAVES), (arrow.target, REACHES)):
                if liv not in boxes or boxes[liv].between(arrow.side):
                    continue
                y, arrives = boxes[liv].y + BOX_HEIGHT * height, liv == arrow.target
                edge, rim = boxes[liv].edge(arrow.side), self.rims[arrow.side]
                end = edge + arrow.side * TIP if arrives else edge
                route: Route = ((end, y), (rim, y)) if abs(rim - edge) > TIP else ((end, y),)
                if arrives:
                    self.entries[arrow] = route
                else:
                    self.exits[liv, arrow.side] = route
        ends = Counter((arrow.target, arrow.side) for arrow in incoming)
        used: Counter[tuple[int, int]] = Counter()
        for track, arrow in enumerate(sorted(incoming, key=lambda arrow: boxes[arrow.target].between(arrow.side))):
            box, key = boxes[arrow.target], (arrow.target, arrow.side)
            step = min(CORNER, (box.width / 2 - 2 * CORNER) / ends[key])
            x = box.edge(arrow.side) - arrow.side * (CORNER + step * used[key])
            y = box.y - CORNER - TRACK_IN * track
            self.entries[arrow] = ((x, box.y - TIP), (x, y), (self.rims[arrow.side], y))
            used[key] += 1
        for track, (liv, side) in enumerate(sorted(outgoing, key=lambda end: (boxes[end[0]].between(end[1]), end))):
            x, y = boxes[liv].edge(side) - side * CORNER, boxes[liv].foot + TRACK_OUT * (track + 1)
            self.exits[liv, side] = ((x, boxes[liv].foot), (x, y), (self.rims[side], y))


def _across(rows: list[tuple[int, ...]], slim: float) -> float:
    if len(rows[0]) == 1:
        return BOX_WIDTH
    return len(rows[0]) * (slim + SPACE) - SPACE + (2 * RAIL if len(rows) > 1 else 0)


def _between(row: tuple[int, ...], liv: int, side: int) -> int:
    return len(row) - 1 - row.index(liv) if side > 0 else row.index(liv)
