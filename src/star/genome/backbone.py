"""The backbone genome: five integers for each LIV, and up to three optional ones (paper 3.1, A.6.1, A.7)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from star.errors import StarError
from star.genome.extension import FEWEST, IDENTITY, MOST
from star.genome.structure import integers_text, parse_integers

if TYPE_CHECKING:
    from star.genome.pool import OptionPool


@dataclass(frozen=True, slots=True)
class Segment:
    """One LIV of a backbone: class, featurizer sharing (group, strategy), feature-group sharing (group, strategy).

    Sharing groups are counted apart for each LIV class. The first LIV of a group is its source; the strategy of every
    later member says what that member takes from the source (1: nothing). The other three integers mean something only
    where the pool has their extension: residual group and path group (0: none), and routing (`Routing`), see
    `star.genome.composition`.
    """

    liv: int
    featurizer_group: int = 1
    featurizer_strategy: int = 1
    feature_group: int = 1
    feature_strategy: int = 1
    residual_group: int = 0
    path_group: int = 0
    routing: int = 1

    @property
    def is_identity(self) -> bool:
        """True for class 0, which stands for no LIV at all."""
        return self.liv == IDENTITY

    @property
    def arity(self) -> int:
        """The fewest integers that say everything: 5 to 8."""
        if self.routing != 1:
            return MOST
        return MOST - 1 if self.path_group else MOST - 2 if self.residual_group else FEWEST

    @property
    def integers(self) -> tuple[int, ...]:
        """All eight."""
        return tuple(getattr(self, name) for name in self.__slots__)

    def text(self, arity: int) -> str:
        """The first `arity` integers, as digits or dotted."""
        return integers_text(self.integers[:arity])

    def __str__(self) -> str:
        return self.text(self.arity)


@dataclass(frozen=True, slots=True)
class BackboneGenome:
    """An architecture as integers; the unit of the search. Equality is by integers; see `canonical` for meaning."""

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        if not self.segments:
            raise StarError("a backbone genome needs at least one segment, for example '11111 91111'; none was given.")

    @classmethod
    def parse(cls, text: str) -> BackboneGenome:
        """Read ``11111 91111``, ``21211-31112`` or the dotted form ``10.1.1.1.1 9.1.1.1.1``; a segment may have up to
        eight integers, and those left out are 0, 0 and 1.

        Raises `StarError` where a segment is not so many non-negative integers.
        """
        words = [word for word in re.split(r"[\s\-]+", text.strip()) if word]
        return cls(tuple(Segment(*parse_integers(word, FEWEST, "segment", MOST)) for word in words))

    @classmethod
    def from_integers(cls, integers: Iterable[int], arity: int = FEWEST) -> BackboneGenome:
        """The inverse of `integers`, `arity` of them (5 to 8) for each segment."""
        values = list(integers)
        if not FEWEST <= arity <= MOST or len(values) % arity or any(value < 0 for value in values):
            raise StarError(f"{len(values)} integers are no backbone genome: {arity} non-negative ones make a segment.")
        return cls(tuple(Segment(*values[start : start + arity]) for start in range(0, len(values), arity)))

    @property
    def arity(self) -> int:
        """The fewest integers a segment, 5 to 8, that say everything."""
        return max(segment.arity for segment in self.segments)

    @property
    def integers(self) -> list[int]:
        """All integers in order, `arity` of them for each LIV."""
        return self.flat(self.arity)

    def flat(self, arity: int) -> list[int]:
        """The first `arity` integers of each segment, one after the other."""
        return [value for segment in self.segments for value in segment.integers[:arity]]

    @property
    def depth(self) -> int:
        """Number of segments; identities count."""
        return len(self.segments)

    def without_identities(self) -> BackboneGenome:
        """The same network, every segment a LIV. Raises `StarError` where nothing is left."""
        if not any(segment.is_identity for segment in self.segments):
            return self
        kept = tuple(segment for segment in self.segments if not segment.is_identity)
        if not kept:
            raise StarError(f"genome {str(self)!r} has only identities (class 0); at least one segment must be a LIV.")
        return BackboneGenome(kept)

    def canonical(self, pool: OptionPool) -> BackboneGenome:
        """The one genome that stands for this architecture: same network, same canonical genome.

        Identities are left out. Sharing groups are numbered in order of appearance within their class, residual and
        path groups within the backbone, and integers without effect are reset: a LIV that shares nothing gets a number
        of its own and strategy 1, and so does the strategy of a source. Parallel paths are ordered.
        Raises `StarError` for an invalid genome.
        """
        from star.genome.canonical import canonical_genome
        from star.genome.validity import require_valid

        require_valid(self, pool)
        return canonical_genome(self, pool)

    def digest(self, pool: OptionPool) -> str:
        """Hash of the architecture: 16 hexadecimal digits of the canonical genome and of the classes that it uses. The
        ids of derived classes, which differ from search to search, do not count."""
        from star.genome.canonical import numbered_by_content

        genome, pool = numbered_by_content(self, pool)
        canonical = genome.canonical(pool)
        classes = [pool[liv].description for liv in sorted({segment.liv for segment in canonical})]
        return hashlib.sha256("\n".join([str(canonical), *classes]).encode()).hexdigest()[:16]

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    def __len__(self) -> int:
        return len(self.segments)

    def __str__(self) -> str:
        arity = self.arity
        return " ".join(segment.text(arity) for segment in self.segments)
