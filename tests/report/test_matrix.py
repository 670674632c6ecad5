"""Pictures of T: colours carry signs, many channels are summed up, and the SVG needs nothing else."""

from __future__ import annotations

import base64
import re
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest

from star.report.matrix import (
    AHEAD,
    MOST_PANELS,
    NEGATIVE,
    POSITIVE,
    STRONGEST,
    WHITE,
    Operator,
    colours,
    draw_operators,
    operators_page,
    panels,
    png,
    summary,
)

SVG = "{http://www.w3.org/2000/svg}"


def causal(heads: int, length: int = 5) -> np.ndarray:
    return np.tril(np.random.default_rng(0).normal(size=(heads, length, length))).astype(np.float32)


def test_colours_carry_sign_and_size_and_leave_out_what_lies_ahead() -> None:
    found = colours(np.array([[2.0, 0.0], [-2.0, 0.0]]))
    assert found[0, 0].tolist() == POSITIVE.tolist()
    assert found[1, 0].tolist() == NEGATIVE.tolist()
    assert found[1, 1].tolist() == WHITE.tolist()
    assert found[0, 1].tolist() == AHEAD.tolist()
    assert colours(np.zeros((2, 2)))[0, 0].tolist() == WHITE.tolist()


def test_a_png_holds_its_pixels() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    file = png(pixels)
    assert file.startswith(b"\x89PNG")
    data = zlib.decompress(file[file.index(b"IDAT") + 4 : file.index(b"IEND") - 8])
    lines = np.frombuffer(data, np.uint8).reshape(2, 1 + 9)
    assert (lines[:, 0] == 0).all()
    assert (lines[:, 1:].reshape(2, 3, 3) == pixels).all()


def test_the_summary_of_known_matrices() -> None:
    identity = summary(Operator(0, "D", np.eye(4)[None]))
    assert (identity.diagonal, identity.distance, identity.largest, identity.signed) == (1.0, 0.0, 1.0, False)
    shift = summary(Operator(0, "S", -np.eye(4, k=-2)[None].repeat(3, 0)))
    assert (shift.heads, shift.diagonal, shift.distance, shift.signed) == (3, 0.0, 2.0, True)
    nothing = summary(Operator(0, "N", np.zeros((1, 3, 3))))
    assert nothing.diagonal is nothing.distance is None


def test_heads_are_drawn_one_by_one_and_channels_by_their_mean_and_the_strongest() -> None:
    assert [name for name, _ in panels(Operator(0, "A", causal(4)))] == [f"head {i}" for i in range(4)]
    assert [name for name, _ in panels(Operator(0, "A-Diff", causal(4), 2))] == [
        "head 0 of branch 1",
        "head 1 of branch 1",
        "head 0 of branch 2",
        "head 1 of branch 2",
    ]
    many = causal(MOST_PANELS + 8) * 0.01
    many[[3, 7, 11]] *= 100
    names = [name for name, _ in panels(Operator(0, "R", many))]
    assert names == [f"mean |T| of {MOST_PANELS + 8}", "channel 3", "channel 7", "channel 11"]
    assert len(names) == STRONGEST + 1


def test_the_svg_is_well_formed_labelled_and_self_contained() -> None:
    tokens = ["<a>", " ", "&", "\n", "\x00"]
    drawing = draw_operators([Operator(0, "SA-1", causal(2)), Operator(3, "R&D", causal(40))], tokens, title="T of <x>")
    tree = ElementTree.fromstring(drawing)
    assert len(tree.findall(f".//{SVG}image")) == 2 + 4
    labels = [text.text for text in tree.iter(f"{SVG}text") if text.get("class") == "token"]
    assert labels[::2][:5] == labels[1::2][:5] == ["<a>", "␣", "&", "⏎", "·"]
    assert "LIV 3: R&D" in [text.text for text in tree.iter(f"{SVG}text")]
    for link in re.findall(r'href="([^"]*)"', drawing):
        kind, _, data = link.partition(",")
        assert kind == "data:image/png;base64"
        base64.b64decode(data, validate=True)
    right = max(float(image.get("x", 0)) + float(image.get("width", 0)) for image in tree.iter(f"{SVG}image"))
    foot = max(float(image.get("y", 0)) + float(image.get("height", 0)) for image in tree.iter(f"{SVG}image"))
    assert right < float(tree.get("width", 0))
    assert foot < float(tree.get("height", 0))


@pytest.mark.parametrize("length", [1, 2, 64])
def test_every_length_is_drawn(length: int) -> None:
    drawing = draw_operators([Operator(0, "T", causal(1, length))], ["x"] * length, title="T")
    ElementTree.fromstring(drawing)
    assert drawing in operators_page(drawing, title="T")
