"""Option pools as a recipe writes them: one by name, and own LIV classes beside or in place of its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator

from star.errors import StarError
from star.genome import BackboneGenome, LivClass, OptionPool, Segment

POOLS = {"paper": OptionPool.paper}

#: Fields whose type TOML and JSON tell apart, and so must be right: ``differential = "no"`` is no ``false``.
_TYPES: dict[str, type] = {"id": int, "name": str, "differential": bool, "window": int}
_TYPE_NAMES = {int: "a whole number", str: "a text", bool: "true or false"}


def liv_class(value: Any) -> LivClass:
    """A LIV class, or one row of a recipe (the fields of ``LivClass.from_dict``).

    Raises StarError, naming the class, where a field is missing, unknown or of another type, or where the genomes
    have no meaning together.
    """
    if isinstance(value, LivClass):
        return value
    if not isinstance(value, Mapping):
        raise StarError(f"{value!r} is no LIV class; write a [[model.classes]] table, or give a LivClass")
    what = f"LIV class {value.get('name', value.get('id', 'without a name'))!r}"
    for field, kind in _TYPES.items():
        if field in value and type(value[field]) is not kind:
            raise StarError(f"{what} has {field} = {value[field]!r}; it must be {_TYPE_NAMES[kind]}")
    try:
        return LivClass.from_dict(dict(value))
    except StarError as error:
        text = str(error)
        raise StarError(text if text.startswith("LIV class ") else f"{what}: {text}") from None


#: A row of ``model.classes``: plain data in files, a `LivClass` in Python.
OwnClass = Annotated[LivClass, PlainValidator(liv_class), PlainSerializer(LivClass.to_dict)]


def build_pool(name: str, classes: Sequence[LivClass]) -> OptionPool:
    """The pool called ``name`` with ``classes``; one that has the id of a row takes its place.

    Raises StarError for an unknown name and for classes that share an id.
    """
    if name not in POOLS:
        raise StarError(f"{name!r} names no option pool; there are: {', '.join(POOLS)}")
    for liv, count in Counter(row.id for row in classes).items():
        if count > 1:
            names = ", ".join(row.name for row in classes if row.id == liv)
            raise StarError(f"the own LIV classes {names} all have id {liv}; give each an id of its own")
    return POOLS[name]().extended(*classes)


@lru_cache(maxsize=256)
def require_width(row: LivClass, width: int) -> None:
    """Raise StarError, naming the class, where ``row`` cannot be built with ``width`` channels.

    It is built on the meta device, without weights; this is what imports torch.
    """
    from star.lm.cost import analyse

    try:
        genome = BackboneGenome((Segment(row.id, 1, 1, 1, 1),))
        analyse(genome, OptionPool(row.name, (row,)), width=width, length=1)
    except StarError as error:
        text = str(error)
        raise StarError(text if repr(row.name) in text else f"LIV class {row.name!r}: {text}") from None
