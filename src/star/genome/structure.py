"""The words of the two lower genomes (paper 3.2, A.6.2, A.6.3): structures, operator genome, featurizer genome."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from enum import IntEnum, StrEnum

from star.errors import StarError


class TokenMixing(IntEnum):
    """Structure of T across positions, T^{αβ} ∈ R^{ℓ×ℓ} (integer 2 of the operator genome)."""

    DIAGONAL = 1
    LOW_RANK = 2
    SCALED_TOEPLITZ = 3
    SEMI_SEPARABLE = 4
    RESAMPLING = 5


class Sparsity(IntEnum):
    """Structured sparsity mask on T, beside causality, which always holds (integer 3)."""

    NONE = 1
    BANDED = 2
    BLOCK_DIAGONAL = 3


class Nonlinearity(IntEnum):
    """Nonlinearity applied to the token-mixing structure (integer 4)."""

    NONE = 1
    SOFTMAX = 2
    RELU = 3
    SWISH = 4


class ChannelMixing(IntEnum):
    """Structure of T across channels, T_ij ∈ R^{d×d} (integer 5)."""

    DIAGONAL = 1
    DENSE = 2
    GROUPED = 3
    MONARCH = 4


class Parametrization(IntEnum):
    """Where a feature group comes from (integer 1 of its seven)."""

    UNUSED = 0
    INPUT = 1
    EXPLICIT = 2
    IMPLICIT = 3


class StateSpace(StrEnum):
    """How the modes A of a fixed diagonal state space start (Gu et al. 2022, S4D)."""

    LIN = "s4d-lin"  # A_n = -1/2 + iπn, N/2 complex modes
    REAL = "s4d-real"  # A_n = -(n + 1), N real modes, the diagonal of HiPPO-LegS

    @classmethod
    def parse(cls, text: str) -> StateSpace:
        """`StarError` for anything but a value."""
        try:
            return cls(text)
        except ValueError:
            allowed = ", ".join(member.value for member in cls)
            raise StarError(f"{text!r} names no state space; allowed: {allowed}.") from None


#: Names of the feature groups of each token-mixing structure, in genome order (paper 2 and A.6.2).
GROUP_NAMES: dict[TokenMixing, tuple[str, ...]] = {
    TokenMixing.DIAGONAL: ("gate", "up"),
    TokenMixing.LOW_RANK: ("q", "k", "v"),
    TokenMixing.SCALED_TOEPLITZ: ("C", "K", "B"),
    TokenMixing.SEMI_SEPARABLE: ("v", "z", "delta", "B", "C"),
    TokenMixing.RESAMPLING: ("g", "s", "v"),
}


def parse_integers(text: str, count: int, what: str, most: int | None = None) -> list[int]:
    """Read ``12123`` or ``1.2.1.2.3`` as `count` integers (up to `most`, where that is given); `StarError`, which names
    `what`, for anything else."""
    parts = text.split(".") if "." in text else list(text)
    if not count <= len(parts) <= (most or count) or not all(part.isascii() and part.isdigit() for part in parts):
        more = f" (up to {most} with the extensions of a pool)" if most else ""
        raise StarError(
            f"{what} {text!r} is not {count} non-negative integers{more}; write them as digits, for example "
            f"{'1' * count!r}, or dotted, {'.'.join('1' * count)!r}."
        )
    return [int(part) for part in parts]


def integers_text(values: tuple[int, ...]) -> str:
    """Digits, or dotted as soon as one value has two of them."""
    return "".join(map(str, values)) if max(values) < 10 else ".".join(map(str, values))


@dataclass(frozen=True, slots=True)
class OperatorGenome:
    """Five integers that name one LIV (paper A.6.2), for example ``12123`` for SA-1."""

    featurizer: int
    token_mixing: TokenMixing
    sparsity: Sparsity = Sparsity.NONE
    nonlinearity: Nonlinearity = Nonlinearity.NONE
    channel_mixing: ChannelMixing = ChannelMixing.DIAGONAL

    @classmethod
    def parse(cls, text: str) -> OperatorGenome:
        """Read ``12123`` or ``1.2.1.2.3``; `StarError` for anything else."""
        featurizer, *rest = parse_integers(text, 5, "operator genome")
        kinds = (TokenMixing, Sparsity, Nonlinearity, ChannelMixing)
        values = [_member(kind, value, text) for kind, value in zip(kinds, rest, strict=True)]
        return cls(featurizer, *values)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return integers_text(tuple(int(value) for value in astuple(self)))


@dataclass(frozen=True, slots=True)
class FeatureGroup:
    """Seven integers that describe how one feature group is computed (paper A.6.3).

    `expansion` is the ratio of the group's channels to the width; for what a state space is made from (B and C of a
    semi-separable LIV, a kernel K with token mixing 4) it is the state size N. `repeat` is how often the computed
    channels are replicated (grouped-query attention: query heads per key head).
    """

    parametrization: Parametrization
    token_mixing: TokenMixing = TokenMixing.DIAGONAL
    sparsity: Sparsity = Sparsity.NONE
    nonlinearity: Nonlinearity = Nonlinearity.NONE
    channel_mixing: ChannelMixing = ChannelMixing.DENSE
    expansion: int = 1
    repeat: int = 1

    @classmethod
    def parse(cls, text: str) -> FeatureGroup:
        """Read ``1112111`` … or the dotted form; `StarError` for anything else."""
        parametrization, *structure, expansion, repeat = parse_integers(text, 7, "feature group")
        if parametrization == 0:
            raise StarError(f"feature group {text!r} is unused (its first integer is 0); leave it out instead.")
        kinds = (TokenMixing, Sparsity, Nonlinearity, ChannelMixing)
        values = [_member(kind, value, text) for kind, value in zip(kinds, structure, strict=True)]
        if expansion < 1 or repeat < 1:
            raise StarError(f"feature group {text!r} has expansion {expansion} and repeat {repeat}; both start at 1.")
        values = [_member(Parametrization, parametrization, text), *values]
        return cls(*values, expansion, repeat)  # type: ignore[arg-type,call-arg]

    @property
    def from_input(self) -> bool:
        """True where the group depends on x; False where it is a learned constant."""
        return self.parametrization is Parametrization.INPUT

    @property
    def state_space(self) -> bool:
        """True for a learned function of the lag that is a fixed diagonal state space: implicit and semi-separable."""
        return self.parametrization is Parametrization.IMPLICIT and self.token_mixing is TokenMixing.SEMI_SEPARABLE

    def __str__(self) -> str:
        return integers_text(tuple(int(value) for value in astuple(self)))


@dataclass(frozen=True, slots=True)
class FeaturizerGenome:
    """Up to five feature groups; in integers always 35, the unused ones 0 (paper A.6.3)."""

    groups: tuple[FeatureGroup, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.groups) <= 5:
            raise StarError(f"a featurizer genome has 1 to 5 feature groups; {len(self.groups)} were given.")

    @classmethod
    def parse(cls, text: str) -> FeaturizerGenome:
        """Read groups separated by blanks or hyphens; all-zero groups at the end count as unused."""
        words = text.replace("-", " ").split()
        while words and not words[-1].replace(".", "").strip("0"):
            words.pop()
        return cls(tuple(FeatureGroup.parse(word) for word in words))

    @property
    def integers(self) -> tuple[int, ...]:
        """The 35 integers."""
        used = [int(value) for group in self.groups for value in astuple(group)]
        return tuple(used + [0] * (35 - len(used)))

    def __iter__(self) -> Iterator[FeatureGroup]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __str__(self) -> str:
        return "-".join(map(str, self.groups))


def _member(kind: type[IntEnum], value: int, text: str) -> IntEnum:
    try:
        return kind(value)
    except ValueError:
        allowed = ", ".join(f"{member.value} {member.name.lower().replace('_', ' ')}" for member in kind)
        name = {"TokenMixing": "token mixing", "ChannelMixing": "channel mixing"}.get(
            kind.__name__, kind.__name__.lower()
        )
        raise StarError(f"{value} in {text!r} names no {name}; allowed: {allowed}.") from None
