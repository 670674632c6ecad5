"""Where text comes from: every source is a name and documents that can be read as often as needed.

Documents are `str` with universal newlines, never blank. What a source leaves out on purpose (hidden, binary, …) is
counted, so that the description of a corpus can say so.
"""

from __future__ import annotations

import os
import stat
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from star.data.recipe import PYTHON_STDLIB, DataRecipe
from star.data.records import holds_records, record_documents
from star.errors import StarError

DOCUMENT_CHARACTERS = 4096  # a text file is cut into documents of about this size
SMALLEST_DOCUMENT_CHARACTERS = 256
DOCUMENTS_WANTED = 64  # a small text file is cut finer, so that a held-out share still means something
OVERLONG = 4  # a paragraph of more than OVERLONG document sizes is cut at a line end

INSTALLED_PACKAGES = frozenset({"site-packages", "dist-packages"})
TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
GENERATED_MODULES = "_sysconfigdata"  # written by the build of the interpreter; full of its absolute paths


@dataclass(frozen=True)
class Source:
    """A name for people (never an absolute path), and `documents(skipped)`: a fresh iterator over the text."""

    name: str
    documents: Callable[[Counter[str]], Iterator[str]]


def open_source(recipe: DataRecipe) -> Source:
    """The source that `recipe.source` names.

    Raises:
        StarError: nothing is there, or it is neither a file nor a folder. Reading raises it too.
    """
    if recipe.source == PYTHON_STDLIB:
        return Source(PYTHON_STDLIB, _stdlib_documents)
    path = Path(recipe.source).expanduser()
    name = path.name or path.resolve().name or str(path)
    with _explained(path):
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise StarError(
                f"there is no file or folder {str(path)!r}: give a text file, a folder, a .jsonl, .jsonl.gz or "
                f".parquet file, or {PYTHON_STDLIB!r}"
            ) from None
    if stat.S_ISDIR(mode):
        return Source(name, partial(_folder_documents, path, recipe.text_field))
    if not stat.S_ISREG(mode):
        raise StarError(f"{path} is neither a file nor a folder: text is read more than once, so save it to a file")
    if holds_records(path):
        return Source(name, partial(_records, path, recipe.text_field))
    return Source(name, partial(_text_documents, path))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns an `OSError` on `path` into a sentence."""
    try:
        yield
    except OSError as error:
        raise StarError(
            f"{error.filename or path} cannot be read ({error.strerror or error}): check that it is there and that "
            "you may read it"
        ) from None


def _records(path: Path, field: str, skipped: Counter[str]) -> Iterator[str]:
    with _explained(path):
        yield from record_documents(path, field, skipped)


def _text_documents(path: Path, skipped: Counter[str]) -> Iterator[str]:
    """One text file, cut into documents at blank lines.

    Paragraphs are gathered to `DOCUMENT_CHARACTERS` characters (less in files below 256 kB, but no less than 256
    characters). A paragraph above four times that size is cut at a line end, a line above it anywhere.
    """
    with _explained(path):
        size = min(DOCUMENT_CHARACTERS, max(SMALLEST_DOCUMENT_CHARACTERS, path.stat().st_size // DOCUMENTS_WANTED))
        gathered: list[str] = []
        characters = 0
        for line in _lines(path, limit=OVERLONG * size):
            gathered.append(line)
            characters += len(line)
            if characters >= OVERLONG * size or (characters >= size and line.isspace()):
                yield from _unless_blank("".join(gathered))
                gathered, characters = [], 0
        yield from _unless_blank("".join(gathered))


def _unless_blank(text: str) -> Iterator[str]:
    text = text.strip("\n")
    if not text.isspace() and text:
        yield text


def _lines(path: Path, limit: int) -> Iterator[str]:
    """The lines of a text file, in parts of at most `limit` characters. Refuses what is not UTF-8 text."""
    with path.open("rb") as raw:
        _refuse_binary(path, raw.read(8192))
    number = 1
    try:
        with path.open(encoding="utf-8-sig") as file:
            while line := file.readline(limit):
                if "\0" in line:
                    raise StarError(f"{path} is binary (a NUL byte in line {number}): give text, encoded as UTF-8")
                yield line
                number += line.endswith("\n")
    except UnicodeDecodeError as error:
        raise StarError(
            f"{path} is not UTF-8 (byte 0x{error.object[error.start]:02x} in or after line {number}): "
            "convert it to UTF-8, for example with iconv"
        ) from None


def _refuse_binary(path: Path, head: bytes) -> None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise StarError(f"{path} is UTF-16, not UTF-8: convert it, for example with iconv -f UTF-16 -t UTF-8")
    if head.startswith(b"\x1f\x8b"):
        raise StarError(f"{path} is compressed with gzip: decompress it (only .jsonl.gz is read compressed)")
    if b"\0" in head:
        raise StarError(f"{path} is binary (it holds NUL bytes): give text, encoded as UTF-8")


def _folder_documents(folder: Path, field: str, skipped: Counter[str]) -> Iterator[str]:
    """The files below `folder` in the order of their relative paths: JSONL and Parquet as their records, every other
    text file as one document.

    Hidden files and folders, binary files and files that are not UTF-8 are skipped and counted; links to folders
    are not followed. A file of records that cannot be read, or lacks `field`, is refused as it would be alone.
    """
    for path in _walk(folder, skipped):
        if holds_records(path):
            yield from _records(path, field, skipped)
            continue
        text = _whole_file(path, skipped)
        if text is not None:
            yield text


def _walk(folder: Path, skipped: Counter[str], ending: str = "") -> Iterator[Path]:
    """The regular files below `folder` whose names end in `ending`, sorted; hidden ones are counted."""

    def refuse(error: OSError) -> None:
        raise error

    found: list[Path] = []
    with _explained(folder):
        for parent, folders, names in os.walk(folder, onerror=refuse):
            skipped["hidden"] += sum(name.startswith(".") for name in (*folders, *names))
            folders[:] = [name for name in folders if not name.startswith(".")]
            candidates = (Path(parent, name) for name in names if not name.startswith(".") and name.endswith(ending))
            found += [path for path in candidates if path.is_file()]
    yield from sorted(found, key=lambda path: path.relative_to(folder).parts)


def _whole_file(path: Path, skipped: Counter[str]) -> str | None:
    """The text of one file of a folder, or None (counted) where it holds none."""
    with _explained(path):
        content = path.read_bytes()
    if b"\0" in content:
        skipped["binary"] += 1
        return None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        skipped["not UTF-8"] += 1
        return None
    if not text or text.isspace():
        skipped["empty"] += 1
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _stdlib_documents(skipped: Counter[str]) -> Iterator[str]:
    """The source of the running interpreter's standard library, one document a module, without its tests."""
    folder = Path(sysconfig.get_path("stdlib"))
    if not folder.is_dir():
        raise StarError(
            f"this Python has no source of its standard library at {folder}: give a text file or a folder instead"
        )
    for path in _stdlib_modules(folder):
        text = _whole_file(path, skipped)
        if text is not None:
            yield text


def _stdlib_modules(folder: Path) -> Iterator[Path]:
    """The modules below `folder`, sorted. Unlike a plain walk it never enters site-packages, which can be huge."""
    left_out = INSTALLED_PACKAGES | TEST_FOLDERS | {"__pycache__"}
    found: list[Path] = []
    with _explained(folder):
        for parent, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if name not in left_out and not name.startswith(".")]
            found += [
                Path(parent, name)
                for name in names
                if name.endswith(".py") and not name.startswith((".", GENERATED_MODULES))
            ]
    yield from sorted(found, key=lambda path: path.relative_to(folder).parts)
