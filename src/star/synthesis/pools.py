"""Option pools as a recipe or a file writes them: one by name, own LIV classes beside or in place of its rows, and
extensions of the backbone genome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, PlainValidator, model_validator

from star.errors import StarError
from star.genome import BackboneGenome, Extension, LivClass, OptionPool, Segment
from star.genome.extension import FEWEST, parse_extensions
from star.synthesis.files import named, read_toml, toml_text
from star.validation import CheckedModel, listed

NO_POOL = "none"
#: What ``model.pool`` can be; with ``none`` there are only own classes.
POOLS: dict[str, Callable[[], OptionPool] | None] = {
    "paper": OptionPool.paper,
    "extended": OptionPool.full,
    NO_POOL: None,
}

#: Fields whose type TOML and JSON tell apart, and so must be right: ``differential = "no"`` is no ``false``.
_TYPES: dict[str, type] = {"id": int, "name": str, "differential": bool, "window": int, "state_space": str}
_TYPE_NAMES = {int: "a whole number", str: "a text", bool: "true or false"}


def liv_class(value: Any) -> LivClass:
    """A LIV class, or one row of a recipe (the fields of ``LivClass.from_dict``).

    Raises StarError, naming the class, where a field is missing, unknown or of another type, or where the genomes
    have no meaning together.
    """
    if isinstance(value, LivClass):
        return value
    if not isinstance(value, Mapping):
        raise StarError(f"{value!r} is no LIV class; write it as a table ([[model.classes]]), or give a LivClass")
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


def _known_pool(name: str) -> str:
    if name not in POOLS:
        raise StarError(f"{name!r} names no option pool; there are: {', '.join(POOLS)}")
    return name


PoolName = Annotated[str, AfterValidator(_known_pool)]
#: Names of extensions, each once; on the command line one text with commas.
Extensions = Annotated[tuple[str, ...], BeforeValidator(listed), AfterValidator(parse_extensions)]


def build_pool(name: str, classes: Sequence[LivClass] = (), extend: Sequence[str] = ()) -> OptionPool:
    """The pool called ``name`` with ``classes``, where one that has the id of a row takes its place, and extensions.

    Raises StarError for an unknown name, classes that share an id, no class at all, and unknown extensions.
    """
    make = POOLS[_known_pool(name)]
    for liv, count in Counter(row.id for row in classes).items():
        if count > 1:
            names = ", ".join(row.name for row in classes if row.id == liv)
            raise StarError(f"the own LIV classes {names} all have id {liv}; give each an id of its own")
    if make is None and not classes:
        raise StarError(
            f"the pool {name!r} has nothing but own LIV classes, and there are none; add classes, or take one of the "
            f"pools {', '.join(pool for pool in POOLS if pool != name)}"
        )
    pool = OptionPool("own", tuple(classes)) if make is None else make().extended(*classes)
    return pool.with_extensions(*extend)


class PoolFile(CheckedModel):
    """An option pool as a TOML file: its ``classes`` are the whole pool, unless ``base`` names one to begin with."""

    base: PoolName = NO_POOL
    extend: Extensions | None = None
    classes: tuple[OwnClass, ...] = ()

    @model_validator(mode="after")
    def _has_classes(self) -> Self:
        build_pool(self.base, self.classes)
        return self


def pool_settings(pool: str | None, extend: str | None = None) -> dict[str, Any]:
    """Settings of a recipe, by dotted name, from a pool's name or TOML file and extensions (one text with commas).

    A name is ``model.pool``. A file is also ``model.classes``, and ``model.extend`` where it says so; ``extend`` has
    the last word. None says nothing. Raises StarError where ``pool`` is neither a name nor a file, or a bad file.
    """
    settings: dict[str, Any] = {}
    if pool in POOLS:
        settings = {"model.pool": pool}
    elif pool is not None:
        path = Path(pool).expanduser()
        if not path.is_file():
            raise StarError(
                f"{pool!r} is neither an option pool nor a file; pools are {', '.join(POOLS)}, or give the path of a "
                "TOML file"
            )
        content = read_toml(path, "option pool")
        with named("option pool", pool):
            file = PoolFile.model_validate(content)
        settings = {"model.pool": file.base, "model.classes": file.classes}
        if file.extend is not None:
            settings["model.extend"] = file.extend
    return settings if extend is None else {**settings, "model.extend": extend}


def genome_pool(genome: BackboneGenome, pool: str | None = None, extend: str | None = None) -> OptionPool:
    """The pool over which a genome that belongs to no run is read; ``pool`` and ``extend`` as in ``pool_settings``.

    Without ``pool`` it is the paper's where that has all classes of the genome, else the extended one. Without both,
    it has every extension of genomes where the genome uses any.
    """
    paper = OptionPool.paper()
    if pool is None:
        known = all(segment.is_identity or segment.liv in paper for segment in genome)
        composed = genome.arity > FEWEST or any(segment.is_identity for segment in genome)
        if extend is None and known and not composed:
            return paper
        chosen = paper if extend is not None and known else OptionPool.full()
        every = [extension for extension in Extension if extension is not Extension.OPERATORS]  # that is for searches
        return chosen.with_extensions(*(every if extend is None else listed(extend)))
    settings = pool_settings(pool, extend)
    return build_pool(
        settings["model.pool"], settings.get("model.classes", ()), listed(settings.get("model.extend", ()))
    )


def pool_toml(genome: BackboneGenome, pool: OptionPool) -> str:
    """The classes of ``pool`` that ``genome`` has, and its extensions, as a file for ``pool_settings``."""
    used = sorted({segment.liv for segment in genome.without_identities()})
    extend = [extension.value for extension in pool.extensions]
    rows = [("[[classes]]", pool[liv].to_dict()) for liv in used]
    return toml_text([("", {"base": NO_POOL, "extend": extend}), *rows])


@lru_cache(maxsize=4096)
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
