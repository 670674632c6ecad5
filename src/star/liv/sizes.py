"""How many heads and channels a LIV class has at a width: the one place that turns genomes into sizes."""

from __future__ import annotations

from math import ceil

from star.errors import StarError
from star.genome import ChannelMixing, LivClass, TokenMixing
from star.genome.meaning import CONTENT

HEAD_SIZE = 64
HIDDEN_MULTIPLE = 64
SHORT_TAPS = 3  # length of explicit convolutions (A.6.2)


def head_size(width: int, repeat: int = 1) -> int:
    """The largest of 64, 32, 16, … that gives at least two heads, and whole groups of `repeat` heads.

    Raises `StarError` where no head size fits.
    """
    size = HEAD_SIZE
    while size >= 2:
        heads = width // size
        if width % size == 0 and heads >= 2 and heads % repeat == 0:
            return size
        size //= 2
    raise StarError(
        f"width {width} cannot be split into heads for groups repeated {repeat} times; "
        f"use a multiple of {4 * repeat}, better of {64 * repeat}."
    )


def inner_width(row: LivClass, width: int) -> int:
    """Channels that T is applied to, where it is not the memoryless unit's: the width, times v's expansion."""
    content = CONTENT.get(row.operator.token_mixing)
    return width * (row.groups[content].expansion if content else 1)


def mixing_heads(row: LivClass, width: int) -> int:
    """How many different token-mixing matrices T has: one for each channel (diagonal and Monarch channel mixing), one
    for each head (grouped), or one (dense)."""
    low_rank = row.operator.token_mixing is TokenMixing.LOW_RANK
    match row.operator.channel_mixing:
        case ChannelMixing.DENSE:
            return 1
        case ChannelMixing.GROUPED:
            return width // head_size(width, row.groups["k"].repeat if low_rank else 1)
        case _:
            # The heads of a low-rank operator are split off the width; its groups may be wider (expansion).
            return width if low_rank else inner_width(row, width)


def hidden_size(row: LivClass, width: int) -> int:
    """Channels of gate and up. With the usual expansion of 4: ⌈8d/3⌉ rounded up to a multiple of 64, two thirds of
    4d so that a gated unit weighs as much as a plain one (Shazeer 2020); exactly expansion · d where channels stay
    apart."""
    expansion = row.groups["up"].expansion
    if row.operator.channel_mixing is ChannelMixing.DIAGONAL:
        return expansion * width
    return ceil(ceil(2 * expansion * width / 3) / HIDDEN_MULTIPLE) * HIDDEN_MULTIPLE


def group_channels(row: LivClass, name: str, width: int) -> int:
    """Channels of a feature group as it is computed, before repetition. Raises `StarError` where `repeat` does not
    divide them."""
    group = row.groups[name]
    match row.operator.token_mixing:
        case TokenMixing.DIAGONAL:
            channels = hidden_size(row, width)
        case TokenMixing.LOW_RANK:
            # Whole heads are repeated, so it is they that must divide.
            return group.expansion * width // mixing_heads(row, width) * _divided(row, name, mixing_heads(row, width))
        case TokenMixing.SCALED_TOEPLITZ:
            channels = mixing_heads(row, width) if name == "K" else width
        case TokenMixing.SEMI_SEPARABLE:
            if name in ("B", "C") and not group.state_space:
                return group.expansion
            channels = mixing_heads(row, width) if name in ("delta", "B", "C") else inner_width(row, width)
        case TokenMixing.RESAMPLING:
            channels = mixing_heads(row, width) if name == "s" else inner_width(row, width)
    return _divided(row, name, channels)


def _divided(row: LivClass, name: str, count: int) -> int:
    repeat = row.groups[name].repeat
    if count % repeat:
        raise StarError(
            f"LIV class {row.name!r} repeats {name} {repeat} times, which does not divide its {count} channels or "
            f"heads; use a repeat that does, or another width."
        )
    return count // repeat


def step_rank(width: int) -> int:
    """Rank of the projection to Δ: ⌈d/16⌉ (Gu & Dao 2023)."""
    return ceil(width / 16)
