from __future__ import annotations

import builtins
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from star.data.records import record_documents
from star.errors import StarError


def read(path: Path, field: str = "text") -> list[str]:
    return list(record_documents(path, field, Counter()))


def test_every_line_is_a_document_and_blank_ones_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one\\ntwo", "id": 1}\n\n{"id": 2, "text": "drei ü"}\n{"text": ""}\n{"text": null}')
    skipped: Counter[str] = Counter()
    assert list(record_documents(path, "text", skipped)) == ["one\ntwo", "drei ü"]
    assert skipped == {"empty": 2}


def test_compressed_lines_are_read_as_they_are_plain(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"body": f"text {index}"}) + "\n" for index in range(3))
    assert read(path, "body") == ["text 0", "text 1", "text 2"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "open', "is not JSON"),
        (b"plain words", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'["a"]', "holds an array"),
        (b'{"body": "a", "id": 1}', "has no field 'text', only 'body', 'id'"),
        (b"{}", "has no field 'text', only nothing"),
        (b'{"text": 5}', "has a number in the field 'text'"),
        (b'{"text": {}}', "has an object in the field 'text'"),
        (b"null", "holds null"),
        (b'{"text": "\xff"}', "is not UTF-8"),
        (b'{"text": "\\ud800"}', "holds half of a surrogate pair"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(StarError, match=rf"bad\.jsonl:2 {reason}"):
        read(path)


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-12])
    with pytest.raises(StarError, match="cannot be decompressed"):
        read(path)
    path.write_bytes(b'{"text": "a"}\n')
    with pytest.raises(StarError, match="cannot be decompressed"):
        read(path)


def write_parquet(path: Path, columns: dict[str, list[Any]], **options: Any) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    parquet.write_table(pyarrow.table(columns), path, **options)


def test_every_row_of_a_parquet_file_is_a_document(tmp_path: Path) -> None:
    texts = [f"row {index}" for index in range(3000)]
    write_parquet(tmp_path / "a.parquet", {"id": list(range(3000)), "text": texts}, row_group_size=700)
    assert read(tmp_path / "a.parquet") == texts


def test_nulls_in_parquet_are_empty_and_dictionaries_are_text(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    words = pyarrow.array(["a", None, "b", "a"]).dictionary_encode()
    write_parquet(tmp_path / "a.parquet", {"text": words})
    assert read(tmp_path / "a.parquet") == ["a", "b", "a"]


def test_a_parquet_file_without_the_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, {"body": ["x"], "id": [1]})
    with pytest.raises(StarError, match=r"no column 'text', only 'body', 'id'"):
        read(path)
    with pytest.raises(StarError, match="has int64 in the column 'id'"):
        read(path, "id")
    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(StarError, match=r"a\.parquet cannot be read as Parquet"):
        read(path)


def test_without_pyarrow_parquet_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(StarError, match=r"pip install 'star-synthesis\[data\]'"):
        read(tmp_path / "a.parquet")
