"""Documents from files of records: one JSON object a line, or one row of a Parquet file."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from star.errors import StarError

JSONL_ENDINGS = (".jsonl", ".jsonl.gz")
PARQUET_ENDING = ".parquet"
PARQUET_ROWS = 1024  # rows decoded at once: bounds memory, not the result


def holds_records(path: Path) -> bool:
    """Whether the name of `path` says that it holds records: .jsonl, .jsonl.gz or .parquet."""
    return path.name.lower().endswith((*JSONL_ENDINGS, PARQUET_ENDING))


def record_documents(path: Path, field: str, skipped: Counter[str]) -> Iterator[str]:
    """The text in `field` of every record of `path`; records with an empty text are counted in `skipped`.

    Raises:
        StarError: a record cannot be read; the sentence names file and line.
    """
    read = _parquet_texts if path.name.lower().endswith(PARQUET_ENDING) else _jsonl_texts
    for text in read(path, field):
        if text.strip():
            yield text
        else:
            skipped["empty"] += 1


def _jsonl_texts(path: Path, field: str) -> Iterator[str]:
    compressed = path.name.lower().endswith(".gz")
    number = 0
    try:
        with cast("IO[bytes]", gzip.open(path, "rb") if compressed else path.open("rb")) as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield _jsonl_text(line, field, f"{path}:{number}")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise StarError(
            f"{path} cannot be decompressed after line {number} ({error}): copy or compress it again"
        ) from None


def _jsonl_text(line: bytes, field: str, where: str) -> str:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise StarError(f"{where} is not UTF-8 (byte 0x{line[error.start]:02x}): convert the file to UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise StarError(f"{where} is not JSON ({error}): every line of a JSONL file must be one JSON object") from None
    if not isinstance(record, dict):
        raise StarError(f"{where} holds {_json_kind(record)}: every line must be one JSON object")
    if field not in record:
        raise StarError(
            f"{where} has no field {field!r}, only {_names(record)}: name the field that holds the text (text_field)"
        )
    text = record[field]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise StarError(
            f"{where} has {_json_kind(text)} in the field {field!r}: the text must be a string "
            f"(the fields are {_names(record)}; choose with text_field)"
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair: "\\ud800"
        raise StarError(f"{where} holds half of a surrogate pair in the field {field!r}: write valid Unicode") from None
    return text


def _parquet_texts(path: Path, field: str) -> Iterator[str]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise StarError(
            f"{path} is a Parquet file and pyarrow is not installed: pip install 'star-synthesis[data]'"
        ) from None
    try:
        with path.open("rb") as raw, pyarrow.parquet.ParquetFile(raw) as file:
            _check_column(file.schema_arrow, field, path)
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=[field]):
                for text in batch.column(0).to_pylist():
                    yield text or ""  # a null is an empty text
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise StarError(
            f"{path} cannot be read as Parquet ({str(error).splitlines()[0]}): check that the file is whole"
        ) from None


def _check_column(schema: Any, field: str, path: Path) -> None:
    import pyarrow

    if field not in schema.names:
        raise StarError(
            f"{path} has no column {field!r}, only {_names(schema.names)}: name the column that holds the text "
            "(text_field)"
        )
    kind = schema.field(field).type
    values = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    readable = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view)
    if not any(test(values) for test in readable):
        raise StarError(
            f"{path} has {kind} in the column {field!r}: the text must be strings (the columns are "
            f"{_names(schema.names)}; choose with text_field)"
        )


def _json_kind(value: Any) -> str:
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _names(names: Any) -> str:
    shown = [repr(name) for name in list(names)[:8]]
    more = ", …" if len(names) > len(shown) else ""
    return (", ".join(shown) + more) or "nothing"
