"""What a search may use beyond five integers for each LIV: residual groups (paper A.7), path groups, routing, variable
depth, and the integers of the two lower genomes."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum, StrEnum

from star.errors import StarError

IDENTITY = 0  # the LIV class that does nothing: it makes depth variable
FIRST_DERIVED = 1001  # ids from here on are those of classes that searches have derived


class Extension(StrEnum):
    """What a pool adds to the five integers of paper A.6.1. Everything is off unless the pool asks for it."""

    RESIDUAL = "residual"  # integer 6
    PATHS = "paths"  # integer 7
    ROUTING = "routing"  # integer 8
    DEPTH = "depth"  # class 0, the identity
    OPERATORS = "operators"  # mutations inside a class, see `star.genome.derivation`


class Routing(IntEnum):
    """How the outputs of parallel paths are combined (integer 8)."""

    SUM = 1
    MIXER = 2
    LIQUID = 3


#: Integers of a segment up to the last one that each extension needs.
_ARITY = {Extension.RESIDUAL: 6, Extension.PATHS: 7, Extension.ROUTING: 8}
FEWEST, MOST = 5, 8


def arity(extensions: Iterable[Extension]) -> int:
    """How many integers a segment has: 5 to 8."""
    return max((_ARITY.get(extension, FEWEST) for extension in extensions), default=FEWEST)


def parse_extensions(names: Iterable[str]) -> tuple[Extension, ...]:
    """Extensions by name, each once, in the order of `Extension`; `StarError` for another name, or for routing without
    the paths between which it chooses."""
    wanted = set(names)
    known = [extension.value for extension in Extension]
    if unknown := sorted(wanted - set(known)):
        raise StarError(f"{', '.join(map(repr, unknown))} names no extension; there are: {', '.join(known)}.")
    if Extension.ROUTING in wanted and Extension.PATHS not in wanted:
        raise StarError("the extension routing chooses between paths; extend by paths,routing.")
    return tuple(extension for extension in Extension if extension in wanted)
