"""A drawing of a backbone shows every LIV and everything that is shared, each on its side."""

from __future__ import annotations

import re
from random import Random
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star.genome import BackboneGenome, OptionPool, random_genome, wiring
from star.report.drawing import draw_backbone, legend
from star.report.layout import BOX_WIDTH, SIDE, WIDTH
from star.report.links import Arrow, arrows
from star.report.palette import class_colour

POOL = OptionPool.paper()


def drawn(text: str) -> ElementTree.Element:
    # Without its namespace, which would stand before every tag.
    return ElementTree.fromstring(
        draw_backbone(BackboneGenome.parse(text), POOL, label="x").replace(' xmlns="http://www.w3.org/2000/svg"', "")
    )


@pytest.mark.parametrize(
    ("genome", "expected"),
    [
        ("11111 91111 12121", []),
        ("11111 91111 11114", [Arrow(0, 2, ("k", "v"), weights=False)]),
        ("11211 91111 11221", [Arrow(0, 2, ("q", "k", "v"), weights=True)]),
        ("11211 11212", [Arrow(0, 1, ("q", "v"), weights=True), Arrow(0, 1, ("k",), weights=False)]),
    ],
)
def test_sharing_of_weights_and_of_features_are_different_arrows(genome: str, expected: list[Arrow]) -> None:
    assert arrows(BackboneGenome.parse(genome), POOL) == expected


def test_weights_bow_to_the_right_and_features_dashed_to_the_left() -> None:
    picture = drawn("11211 11212")
    for kind, beyond in (("weights", 1), ("features", -1)):
        (group,) = [group for group in picture.iter("g") if group.get("class") == kind]
        (bow,) = [path for path in group.iter("path") if path.get("class") == "bow"]
        xs = [float(x) for x, _ in re.findall(r"([\d.]+) ([\d.]+)", bow.get("d", ""))]
        edge = SIDE + BOX_WIDTH if beyond > 0 else SIDE
        assert all((x - edge) * beyond >= 0 for x in xs)
        assert 0 <= min(xs) <= max(xs) <= WIDTH + SIDE  # control points may lie outside, the bow itself does not
    assert [title.text for title in picture.iter("title")][-2:] == [
        "LIV 1 uses weights of q, v of LIV 0",
        "LIV 1 uses k of LIV 0",
    ]


@given(st.integers(0, 10_000), st.integers(1, 24))
@settings(deadline=None)
def test_every_backbone_can_be_drawn_with_a_box_for_each_liv(seed: int, depth: int) -> None:
    genome = random_genome(POOL, depth, Random(seed))
    picture = drawn(str(genome))
    boxes = list(picture.iter("rect"))
    assert [box.get("fill") for box in boxes] == [class_colour(POOL[segment.liv], POOL) for segment in genome]
    names = [text.text for text in picture.iter("text") if text.get("class") == "name"]
    assert names == [POOL[segment.liv].name for segment in genome]
    wires = wiring(genome, POOL)
    shared = sum(len(set(taken.values())) for taken in wires.taken)
    shared += sum(len(set(owners.values()) - {index}) for index, owners in enumerate(wires.owners))
    assert len([path for path in picture.iter("path") if path.get("class") == "bow"]) == shared


@pytest.mark.parametrize("liv", [1, 10])
def test_the_legend_tells_differentials_apart(liv: int) -> None:
    assert ("differential" in legend(POOL, {liv})) == POOL[liv].differential
    assert POOL[liv].name in legend(POOL, {liv})
