"""The backbone genome: five integers for each LIV (paper 3.1, A.6.1)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from star.errors import StarError
from star.genome.structure import integers_text, parse_integers

if TYPE_CHECKING:
    from star.genome.pool import OptionPool


@dataclass(frozen=True, slots=True)
class Segment:
    """One LIV of a backbone: class, featurizer sharing (group, strategy), feature-group sharing (group, strategy).

    Sharing groups are counted apart for each LIV class. The first LIV of a group is its source; the strategy of every
    later member says what that member takes from the source (1: nothing).
    """

    liv: int
    featurizer_group: int = 1
    featurizer_strategy: int = 1
    feature_group: int = 1
    feature_strategy: int = 1

    def __str__(self) -> str:
        return integers_text(astuple(self))


@dataclass(frozen=True, slots=True)
class BackboneGenome:
    """An architecture as integers; the unit of the search. Equality is by integers; see `canonical` for meaning."""

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        if not self.segments:
            raise StarError("a backbone genome needs at least one segment, for example '11111 91111'; none was given.")

    @classmethod
    def parse(cls, text: str) -> BackboneGenome:
        """Read ``11111 91111``, ``21211-31112`` or the dotted form ``10.1.1.1.1 9.1.1.1.1``.

        Raises `StarError` where a segment is not five non-negative integers.
        """
        words = [word for word in re.split(r"[\s\-]+", text.strip()) if word]
        return cls(tuple(Segment(*parse_integers(word, 5, "segment")) for word in words))

    @classmethod
    def from_integers(cls, integers: Iterable[int]) -> BackboneGenome:
        """The inverse of `integers`."""
        values = list(integers)
        if len(values) % 5 or any(value < 0 for value in values):
            raise StarError(f"{len(values)} integers are no backbone genome: five non-negative ones make a segment.")
        return cls(tuple(Segment(*values[start : start + 5]) for start in range(0, len(values), 5)))

    @property
    def integers(self) -> list[int]:
        """All integers in order, five for each LIV."""
        return [value for segment in self.segments for value in astuple(segment)]

    @property
    def depth(self) -> int:
        """Number of LIVs."""
        return len(self.segments)

    def canonical(self, pool: OptionPool) -> BackboneGenome:
        """The one genome that stands for this architecture: same network, same canonical genome.

        Sharing groups are numbered in order of appearance within their class, and integers without effect are reset:
        a LIV that shares nothing gets a number of its own and strategy 1, and so does the strategy of a source.
        Raises `StarError` for an invalid genome.
        """
        from star.genome.validity import require_valid
        from star.genome.wiring import canonical_genome

        require_valid(self, pool)
        return canonical_genome(self, pool)

    def digest(self, pool: OptionPool) -> str:
        """Hash of the architecture: 16 hexadecimal digits of the canonical genome and of the classes that it uses."""
        canonical = self.canonical(pool)
        classes = [pool[liv].description for liv in sorted({segment.liv for segment in canonical})]
        return hashlib.sha256("\n".join([str(canonical), *classes]).encode()).hexdigest()[:16]

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    def __len__(self) -> int:
        return len(self.segments)

    def __str__(self) -> str:
        return " ".join(map(str, self.segments))
