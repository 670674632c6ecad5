"""Lines of drawings as SVG paths: bows between two ways to a rim, lines with round corners, arrow heads."""

from __future__ import annotations

from collections.abc import Sequence

from star.report.layout import BOX_HEIGHT, GAP, LEAVES, REACHES, SIDE, Point, Route

REACH, REACH_PER_STEP = 16, 9  # how far a bow goes out, and how much further for each box that it passes
EDGE = 4  # between the farthest bow and the end of the drawing
RADIUS = 4  # of corners
LENGTH, HALF_WIDTH = 7, 4  # of arrow heads


def bow(start: Route, end: Route, side: int) -> str:
    """Out of a box along `start`, outside the rim to `end`, and along it into a box."""
    (x, leaves), (tip, arrives) = start[-1], end[-1]
    passed = (abs(arrives - leaves) + (LEAVES - REACHES) * BOX_HEIGHT) / (BOX_HEIGHT + GAP)
    # A cubic Bézier with both control points at `bend` comes three quarters as far.
    bend = x + side * min(SIDE - EDGE, REACH + REACH_PER_STEP * passed) / 0.75
    curve = f"C{bend:g} {leaves:g} {bend:g} {arrives:g} {tip:g} {arrives:g}"
    return _at("M", start[0]) + _onwards(start) + curve + _onwards(end[::-1])


def rounded(points: Sequence[Point]) -> str:
    """A line along `points`, level and upright in turn, its corners round where there is room."""
    return _at("M", points[0]) + _onwards(points)


def head(tip: Point, behind: Point) -> str:
    """An open arrow head at `tip` of a level or upright line that comes from `behind`."""
    x, y = _towards(tip, behind, LENGTH)
    across, down = (0, HALF_WIDTH) if y == tip[1] else (HALF_WIDTH, 0)
    return f'<path class="head" d="M{x - across:g} {y - down:g}{_at("L", tip)}L{x + across:g} {y + down:g}"/>'


def _onwards(points: Sequence[Point]) -> str:
    """From the first of `points`, where the pen is, along the others."""
    path = ""
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        radius = min(RADIUS, _distance(before, corner) / 2, _distance(corner, after) / 2)
        path += f"{_at('L', _towards(corner, before, radius))}{_at('Q', corner)} "
        path += _at("", _towards(corner, after, radius))
    return path + (_at("L", points[-1]) if len(points) > 1 else "")


def _at(command: str, point: Point) -> str:
    return f"{command}{point[0]:g} {point[1]:g}"


def _distance(a: Point, b: Point) -> float:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def _towards(start: Point, end: Point, length: float) -> Point:
    share = length / (_distance(start, end) or 1.0)
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share
