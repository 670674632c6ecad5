"""Parallel paths, residual links and identities in drawings of backbones: everything once, in its place, apart."""

from __future__ import annotations

import re
from itertools import combinations
from random import Random
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star.genome import BackboneGenome, OptionPool, Stage, random_genome, stages
from star.report.drawing import draw_backbone, in_words, legend
from star.report.layout import ABREAST, BOX_WIDTH, MARGIN, SIDE, WIDTH, in_lines
from star.report.links import Link, arrows, links

POOL = OptionPool.full().with_extensions("residual", "paths", "routing", "depth")
SVG = "{http://www.w3.org/2000/svg}"
Span = tuple[float, float, float, float]  # left, top, right, foot

PATHS = "1.1.1.1.1.0.0.1 1.1.2.1.4.0.1.2 5.1.1.1.1.0.1.1 9.1.1.1.1.0.1.1 9.2.1.2.1.0.0.1"


class Drawing:
    """A drawing, read back."""

    def __init__(self, genome: BackboneGenome | str, pool: OptionPool = POOL) -> None:
        self.genome = BackboneGenome.parse(genome) if isinstance(genome, str) else genome
        self.root = ElementTree.fromstring(draw_backbone(self.genome, pool, label="Backbone <x>"))
        self.stages = stages(self.genome.without_identities())

    def groups(self, kind: str) -> list[ElementTree.Element]:
        return [group for group in self.root.iter(f"{SVG}g") if group.get("class") == kind]

    @property
    def boxes(self) -> dict[int, Span]:
        """By LIV, as its title says."""
        found = {}
        for group in self.root.iter(f"{SVG}g"):
            title, rect = group.findtext(f"{SVG}title") or "", group.find(f"{SVG}rect")
            if rect is not None and (match := re.match(r"LIV (\d+): ", title)):
                assert int(match[1]) not in found, "each LIV is drawn once"
                found[int(match[1])] = span(rect)
        return found

    @property
    def rectangles(self) -> list[Span]:
        return [span(rect) for rect in self.root.iter(f"{SVG}rect")]

    @property
    def size(self) -> tuple[float, float]:
        _, _, width, height = map(float, self.root.get("viewBox", "").split())
        return width, height

    def texts(self, kind: str) -> list[str]:
        return [text.text or "" for text in self.root.iter(f"{SVG}text") if text.get("class") == kind]

    def around(self, stage: Stage) -> tuple[float, float]:
        """Where its boxes start and end."""
        boxes = [self.boxes[liv] for liv in stage.livs]
        return min(box[1] for box in boxes), max(box[3] for box in boxes)


def span(rect: ElementTree.Element) -> Span:
    x, y, width, height = (float(rect.get(key, "")) for key in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def ends(path: ElementTree.Element | None) -> tuple[tuple[float, float], tuple[float, float]]:
    assert path is not None
    pairs = points(path)
    return pairs[0], pairs[-1]


def points(path: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path.get("d", ""))]


def straight_parts(path: ElementTree.Element) -> list[Span]:
    """Of a line from box to box or along a lane, without the curve of a bow."""
    found = []
    before, *rest = re.findall(r"([MLQC])([^MLQC]*)", path.get("d", ""))
    place = tuple(map(float, before[1].split()))
    for command, text in rest:
        numbers = list(map(float, text.split()))
        # A round corner stays within its two sides.
        corners = [] if command == "C" else [(numbers[i], numbers[i + 1]) for i in range(0, len(numbers), 2)]
        for x, y in corners:
            found.append((min(x, place[0]), min(y, place[1]), max(x, place[0]), max(y, place[1])))
            place = (x, y)
        place = (numbers[-2], numbers[-1])
    return found


def apart(a: Span, b: Span) -> bool:
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_parallel_livs_stand_beside_each_other_and_others_below_one_another() -> None:
    boxes = Drawing(PATHS).boxes
    assert boxes[0][3] < boxes[1][1]
    assert boxes[1][1] == boxes[2][1] == boxes[3][1]
    assert boxes[1][2] < boxes[2][0] < boxes[2][2] < boxes[3][0]
    assert boxes[3][3] < boxes[4][1]


def test_the_stream_forks_to_every_path_and_joins_again() -> None:
    drawing = Drawing(PATHS)
    (stage,) = drawing.groups("stage")
    (stream,) = [path for path in stage.iter(f"{SVG}path") if path.get("class") == "stream"]
    for liv in (1, 2, 3):
        left, top, right, foot = drawing.boxes[liv]
        middle = (left + right) / 2
        assert re.search(rf"M{middle:g} [\d.]+V{top:g}M{middle:g} {foot:g}V", stream.get("d", ""))


@pytest.mark.parametrize(
    ("routing", "name", "words"),
    [
        (1, [], "their outputs are added"),
        (2, ["mixer"], "a learned mixer weighs their outputs"),
        (3, ["liquid router"], "a liquid router weighs their outputs, token by token"),
    ],
)
def test_the_join_names_its_routing(routing: int, name: list[str], words: str) -> None:
    drawing = Drawing(f"9.1.1.1.1.0.2.{routing} 23.1.1.1.1.0.2.1")
    (stage,) = drawing.groups("stage")
    assert stage.findtext(f"{SVG}title") == f"LIVs 0 and 1 run in parallel: {words}"
    pills = drawing.groups("routing")
    assert [pill.findtext(f"{SVG}text") for pill in pills] == name
    for pill in pills:
        rect = pill.find(f"{SVG}rect")
        assert rect is not None
        assert span(rect)[1] > drawing.around(drawing.stages[0])[1]


def test_many_paths_are_wrapped_into_lines_that_people_can_read() -> None:
    drawing = Drawing(" ".join(f"{25 + place % 7}.1.1.1.1.0.1.1" for place in range(9)))
    rows: dict[float, list[Span]] = {}
    for box in drawing.boxes.values():
        rows.setdefault(box[1], []).append(box)
    assert [len(row) for row in rows.values()] == [3, 3, 3]
    assert min(box[2] - box[0] for box in drawing.boxes.values()) > 6 * len("Deformer-1-Diff")
    assert drawing.texts("name") == [POOL[segment.liv].name for segment in drawing.genome]


@given(st.integers(1, 60))
def test_lines_are_few_and_even(count: int) -> None:
    lines = in_lines(tuple(range(count)))
    assert [liv for line in lines for liv in line] == list(range(count))
    assert len(lines) == -(-count // ABREAST)
    assert {len(line) for line in lines[:-1]} <= {len(lines[0])}


def test_a_residual_link_goes_from_below_its_source_to_above_its_target() -> None:
    drawing = Drawing(
        "1.1.1.1.1.3.0.1 9.1.1.1.1.0.0.1 5.1.1.1.1.3.1.1 7.1.1.1.1.0.1.1 9.2.1.2.1.0.0.1 18.1.1.1.1.3.0.1"
    )
    assert [group.findtext(f"{SVG}title") for group in drawing.groups("residual")] == [
        "the output of LIV 0 joins the input of LIVs 2 and 3",
        "the output of LIV 0 joins the input of LIV 5",
    ]
    for group, (above, below) in zip(drawing.groups("residual"), ((1, 2), (4, 5)), strict=True):
        (_, start), (_, end) = ends(group.find(f"{SVG}path"))
        assert drawing.boxes[0][3] < start < drawing.boxes[1][1]
        assert drawing.boxes[above][3] < end < drawing.boxes[below][1]


def test_links_that_run_beside_each_other_have_lanes_of_their_own() -> None:
    drawing = Drawing("1.1.1.1.1.1.0.1 9.1.1.1.1.2.0.1 5.1.1.1.1.1.0.1 7.1.1.1.1.2.0.1 6.1.1.1.1.3.0.1 8.1.1.1.1.3.0.1")
    assert links(drawing.genome) == [Link(0, 2), Link(1, 3), Link(4, 5)]
    lanes = [min(x for x, _ in points(path)) for group in drawing.groups("residual") for path in group[1:2]]
    assert lanes[0] != lanes[1]
    assert max(lanes) == lanes[2]
    assert max(lanes) < min(box[0] for box in drawing.boxes.values())


def test_sharing_between_paths_ends_at_their_boxes() -> None:
    genome = "1.1.1.1.1.0.1.1 9.1.1.1.1.0.1.1 5.1.1.1.1.0.1.1 5.1.2.1.1.0.2.1 9.1.2.1.2.0.2.1 1.1.2.1.4.0.2.1"
    drawing = Drawing(f"{genome} 7.1.1.1.1.0.0.1")
    shared = arrows(drawing.genome, POOL)
    assert {(arrow.source, arrow.target) for arrow in shared} == {(2, 3), (1, 4), (0, 5)}
    drawn = [*drawing.groups("weights"), *drawing.groups("features")]
    assert len(drawn) == len(shared)
    for arrow, group in zip(sorted(shared, key=lambda arrow: -arrow.side), drawn, strict=True):
        (x, y), (tip_x, tip_y) = ends(group.find(f"{SVG}path"))
        source, target = drawing.boxes[arrow.source], drawing.boxes[arrow.target]
        outer = {-1: (0, 3), 1: (2, 5)}[arrow.side]
        if arrow.source in outer:  # beside the box
            assert x == source[2 if arrow.side > 0 else 0]
        else:
            assert source[0] < x < source[2]
            assert y == source[3]
        if arrow.target in outer:
            assert abs(tip_x - target[2 if arrow.side > 0 else 0]) == 1
        else:
            assert target[0] < tip_x < target[2]
            assert tip_y == target[1] - 1


def test_identities_are_left_out() -> None:
    short, long = "11111 91111 11114", "00000 11111 0.1.1.1.1 91111 11114"
    assert draw_backbone(BackboneGenome.parse(long), POOL, label="x") == draw_backbone(
        BackboneGenome.parse(short), POOL, label="x"
    )


def test_a_backbone_without_composition_has_the_plain_width_and_no_trace_of_it() -> None:
    drawing = Drawing("11111 91111 11114 5.1.1.1.1")
    assert drawing.size[0] == WIDTH
    assert [(box[0], box[2]) for box in drawing.boxes.values()] == [(SIDE, SIDE + BOX_WIDTH)] * 4
    assert drawing.groups("stage") == drawing.groups("routing") == drawing.groups("residual") == []
    assert drawing.root.get("aria-label") == "Backbone <x>"


def test_a_wide_drawing_has_room_for_bows_only_where_there_are_some() -> None:
    paths = "10.1.1.1.1.0.1.1 11.1.1.1.1.0.1.1 18.1.1.1.1.0.1.1 18.{}.0.1.1"
    plain, weights, both = (Drawing(paths.format(sharing)).size[0] for sharing in ("2.1.2.1", "1.2.2.1", "1.2.1.2"))
    assert plain == weights - SIDE + MARGIN == both - 2 * (SIDE - MARGIN)


def test_the_label_tells_of_paths_and_links() -> None:
    label = Drawing(PATHS.replace("1.1.1.1.1.0.0.1", "1.1.1.1.1.1.0.1").replace(".0.1.2", ".1.1.2")).root.get(
        "aria-label"
    )
    assert label == "Backbone <x>; 1 stage with parallel paths, 1 residual link"


def test_long_names_stay_in_their_boxes() -> None:
    from dataclasses import replace

    name = "a class whose name does not fit <into> any box"
    pool = OptionPool("own", (replace(POOL[1], name=name), POOL[9]), POOL.extensions)
    drawing = Drawing("1.1.1.1.1.0.1.1 9.1.1.1.1.0.1.1", pool)
    assert drawing.boxes[0][2] - drawing.boxes[0][0] <= BOX_WIDTH
    assert drawing.texts("name")[0].endswith("…")
    assert any(name in (title.text or "") for title in drawing.root.iter(f"{SVG}title"))


def test_the_legend_explains_residual_links_only_where_there_are_some() -> None:
    assert "joins the stream" in legend(POOL, {1}, residual=True)
    assert "joins the stream" not in legend(POOL, {1})


@pytest.mark.parametrize(("livs", "words"), [((3,), "3"), ((3, 4), "3 and 4"), ((3, 4, 5), "3, 4 and 5")])
def test_livs_are_listed_in_words(livs: tuple[int, ...], words: str) -> None:
    assert in_words(livs) == words


@given(st.integers(0, 100_000), st.integers(1, 32))
@settings(deadline=None, max_examples=150)
def test_every_backbone_is_drawn_whole_inside_its_view_and_without_overlap(seed: int, depth: int) -> None:
    drawing = Drawing(random_genome(POOL, depth, Random(seed)))
    genome = drawing.genome.without_identities()
    width, height = drawing.size
    assert sorted(drawing.boxes) == list(range(genome.depth))
    assert drawing.texts("name") == [POOL[segment.liv].name for segment in genome]
    assert all(0 < a < c < width and 0 < b < d < height for a, b, c, d in drawing.rectangles)
    assert all(apart(first, second) for first, second in combinations(drawing.rectangles, 2))
    previous = 0.0
    for stage in drawing.stages:
        top, foot = drawing.around(stage)
        assert previous < top
        previous = foot
    for stage, group in zip(
        [s for s in drawing.stages if s.source is not None], drawing.groups("residual"), strict=True
    ):
        (_, start), (_, end) = ends(group.find(f"{SVG}path"))
        assert drawing.around(drawing.stages[stage.source])[1] < start < end < drawing.around(stage)[0]
    for path in drawing.root.iter(f"{SVG}path"):
        if path.get("class") in ("link", "head", "stream"):
            assert all(0 <= x <= width and 0 <= y <= height for x, y in points(path))
        if path.get("class") in ("link", "bow"):
            assert all(apart(part, box) for part in straight_parts(path) for box in drawing.rectangles)
    kinds = len(drawing.groups("weights")), len(drawing.groups("features"))
    sides = [arrow.side for arrow in arrows(genome, POOL)]
    assert kinds == (sides.count(1), sides.count(-1))
