"""Settings as TOML: the recipes that come with STAR, by name, and files of the user's own."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from star.errors import StarError

ABLATION = "ablation"  # the section that makes one recipe several searches


def recipe_names(*, ablations: bool) -> list[str]:
    """The recipes that come with STAR: those of one search, or those of an ablation."""
    return sorted(name for name, text in _shipped().items() if (ABLATION in tomllib.loads(text)) is ablations)


def read_recipe(name: str | Path) -> dict[str, Any]:
    """The settings of a recipe that comes with STAR, or of a TOML file.

    Raises StarError for an unknown name, a file that cannot be read, or no TOML.
    """
    shipped = _shipped()
    if isinstance(name, str) and name in shipped:
        return parse_toml(shipped[name])
    path = Path(name).expanduser()
    if not path.is_file():
        raise StarError(
            f"{str(name)!r} is neither a recipe nor a file; recipes are {', '.join(sorted(shipped))}, "
            "or give the path of a TOML file"
        )
    return read_toml(path, "recipe")


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The content of a TOML file; StarError, which calls the file ``what``, where it cannot be read or is no TOML."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StarError(f"the {what} {str(path)!r} cannot be read: {error}") from None
    with named(what, path):
        return parse_toml(text)


def parse_toml(text: str) -> dict[str, Any]:
    """Plain data; StarError where the text is no TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StarError(f"not TOML: {error}") from None


def toml_text(tables: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """Tables with their heads, such as ``[model]``; the head of settings outside of all tables is empty."""
    return "\n".join(
        (f"{head}\n" if head else "") + "".join(f"{name} = {_toml(value)}\n" for name, value in settings.items())
        for head, settings in tables
    )


def _toml(value: Any) -> str:
    """A number, text, truth value or list of these; as in JSON but for characters that JSON escapes in pairs."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


@contextmanager
def named(what: str, name: str | Path) -> Iterator[None]:
    """Errors inside tell which file they are about."""
    try:
        yield
    except StarError as error:
        raise StarError(f"the {what} {str(name)!r}: {error}") from None


def _shipped() -> dict[str, str]:
    files = resources.files("star.synthesis").joinpath("recipes").iterdir()
    return {Path(file.name).stem: file.read_text(encoding="utf-8") for file in files if file.name.endswith(".toml")}
