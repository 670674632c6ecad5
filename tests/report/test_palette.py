"""Colours tell classes apart, also in the pool of all classes, and text stays readable on them."""

from __future__ import annotations

from itertools import combinations

import pytest

from star.genome import LivClass, OptionPool
from star.report.palette import class_colour

PAPER, FULL = OptionPool.paper(), OptionPool.full()
TEXT = "#14171a"  # of names, as in page.css


def linear(colour: str) -> list[float]:
    parts = [value / 255 for value in bytes.fromhex(colour[1:])]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def luminance(colour: str) -> float:
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))


def lab(colour: str) -> tuple[float, float, float]:
    """CIE L*a*b*, in which distances are differences as people see them."""
    red, green, blue = linear(colour)
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, luminance(colour), z))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def nearest(pool: OptionPool) -> float:
    """The difference of the two most similar classes."""
    colours = [lab(class_colour(row, pool)) for row in pool.rows if not row.differential]
    return min(sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) ** 0.5 for pair in combinations(colours, 2))


@pytest.mark.parametrize(("pool", "count"), [(PAPER, 9), (FULL, 16)])
def test_classes_have_different_colours_and_differentials_that_of_what_they_double(
    pool: OptionPool, count: int
) -> None:
    plain = {class_colour(row, pool): row.name for row in pool.rows if not row.differential}
    assert len(plain) == count
    doubled = [row for row in pool.rows if row.differential]
    assert [f"{plain[class_colour(row, pool)]}-Diff" for row in doubled] == [row.name for row in doubled]


def test_all_classes_can_be_told_apart_as_well_as_those_of_the_paper() -> None:
    assert nearest(FULL) >= nearest(PAPER) > 5


@pytest.mark.parametrize("row", PAPER.rows, ids=lambda row: row.name)
def test_a_class_of_the_paper_keeps_its_colour_beside_others(row: LivClass) -> None:
    assert class_colour(row, FULL) == class_colour(row, PAPER)


@pytest.mark.parametrize("row", FULL.rows, ids=lambda row: row.name)
def test_text_is_readable_on_every_colour(row: LivClass) -> None:
    assert (luminance(class_colour(row, FULL)) + 0.05) / (luminance(TEXT) + 0.05) >= 4.5
