"""Colours that mean something: hue by token mixing, shade by class, and a scale for generations."""

from __future__ import annotations

import colorsys

from star.genome import LivClass, Nonlinearity, OptionPool, Sparsity, TokenMixing

#: Degrees on the colour wheel; memoryless LIVs are grey.
HUES = {
    TokenMixing.LOW_RANK: 212,
    TokenMixing.SEMI_SEPARABLE: 28,
    TokenMixing.SCALED_TOEPLITZ: 130,
    TokenMixing.RESAMPLING: 290,
}
#: Relatives of a family stand beside it on the wheel: fixed state spaces, attention without softmax, with a window.
STATE_SPACE, LINEAR, WINDOWED = 26, -28, 32
LIGHTEST, DARKEST = 0.84, 0.66  # dark text stays readable on both
SATURATION = 0.75

#: The viridis scale at five places, dark to light, without its palest end, which vanishes on white.
SCALE = ("#440154", "#3b528b", "#21918c", "#5ec962", "#c8b020")

BASELINE = "#d62728"
FRONT = "#7f7f7f"


def class_colour(row: LivClass, pool: OptionPool) -> str:
    """A light colour for a LIV class; a differential has that of the class that it doubles."""
    if row.memoryless:
        return _hex(0, 0.0, 0.83)
    family = sorted({_undoubled(other) for other in pool.rows if not other.memoryless and _hue(other) == _hue(row)})
    place = family.index(_undoubled(row)) / max(1, len(family) - 1)
    return _hex(_hue(row), SATURATION, LIGHTEST - place * (LIGHTEST - DARKEST))


def generation_colour(generation: int, last: int) -> str:
    """The colour of one of `last` generations, the first dark."""
    place = (generation - 1) / max(1, last - 1) * (len(SCALE) - 1)
    low = min(int(place), len(SCALE) - 2)
    return _mix(SCALE[low], SCALE[low + 1], place - low)


def _hue(row: LivClass) -> int:
    """By token mixing and, within it, by what sets the classes beyond the paper's apart."""
    operator = row.operator
    hue = HUES[operator.token_mixing] + (STATE_SPACE if row.state_spaces else 0)
    if operator.token_mixing is TokenMixing.LOW_RANK:
        hue += LINEAR if operator.nonlinearity is Nonlinearity.NONE else 0
        hue += WINDOWED if operator.sparsity is not Sparsity.NONE else 0
    return hue


def _undoubled(row: LivClass) -> tuple[str, str]:
    """What a differential and the class that it doubles have in common."""
    return str(row.operator), str(row.featurizer)


def _hex(hue: float, saturation: float, lightness: float) -> str:
    red, green, blue = colorsys.hls_to_rgb(hue / 360, lightness, saturation)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def _mix(first: str, second: str, share: float) -> str:
    pairs = zip(bytes.fromhex(first[1:]), bytes.fromhex(second[1:]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)
