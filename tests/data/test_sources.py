from __future__ import annotations

import gzip
import os
import sysconfig
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star.data.recipe import DataRecipe
from star.data.sources import open_source
from star.errors import StarError


def read(source: Path | str, **settings: str) -> tuple[list[str], Counter[str]]:
    skipped: Counter[str] = Counter()
    documents = list(open_source(DataRecipe(source=str(source), **settings)).documents(skipped))
    return documents, +skipped


def test_a_text_file_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {index}.\nIt has two lines.\n" for index in range(400)]
    path = tmp_path / "book.txt"
    path.write_text("\n".join(paragraphs))
    documents, _ = read(path)
    assert len(documents) > 10
    assert "".join("".join(documents).split()) == "".join("".join(paragraphs).split())
    for document in documents:
        assert document.startswith("Paragraph")
        assert document.endswith("lines.")


@pytest.mark.parametrize("text", ["one line\n" * 5000, "word " * 9000, "x" * 40_000])
def test_text_without_blank_lines_is_still_cut(tmp_path: Path, text: str) -> None:
    path = tmp_path / "flat.txt"
    path.write_text(text)
    documents, _ = read(path)
    assert len(documents) >= 4
    assert max(map(len, documents)) <= 4 * 4096
    assert "".join(documents).replace("\n", "") == text.replace("\n", "")


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3000))
def test_cutting_keeps_every_character_but_blank_lines(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "any.txt"
    path.write_text(text, encoding="utf-8", newline="")
    documents, _ = read(path)
    assert all(document.strip() for document in documents)
    expected = text.removeprefix("\ufeff")
    assert "".join("".join(documents).split()) == "".join(expected.split())


def test_a_byte_order_mark_and_windows_line_ends_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert read(tmp_path / "a.txt")[0] == ["one\ntwo"]
    assert read(tmp_path)[0] == ["one\ntwo\n"]


def test_a_folder_gives_one_document_a_file_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.md").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "c").write_text("third")
    assert read(tmp_path)[0] == ["first", "second", "third"]


def test_what_a_folder_leaves_out_is_counted(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / ".hidden").write_text("secret")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("secret")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    documents, skipped = read(tmp_path)
    assert documents == ["good"]
    assert skipped == {"binary": 1, "not UTF-8": 1, "empty": 1, "hidden": 2}


def test_a_folder_of_records_is_read_as_records(tmp_path: Path) -> None:
    (tmp_path / "0.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    (tmp_path / "1.jsonl").write_text('{"text": "c"}\n')
    assert read(tmp_path)[0] == ["a", "b", "c"]


def test_a_mixed_folder_gives_records_and_whole_texts_file_by_file(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "0.jsonl").write_text('{"body": "a"}\n{"body": "b"}\n')
    (tmp_path / "1.jsonl.gz").write_bytes(gzip.compress(b'{"body": "c"}\n'))
    parquet.write_table(pyarrow.table({"body": ["d", "e"]}), tmp_path / "2.parquet")
    (tmp_path / "README.md").write_text("about\n\nthem")
    assert read(tmp_path, text_field="body")[0] == ["a", "b", "c", "d", "e", "about\n\nthem"]


def test_a_record_file_without_the_field_is_refused_in_a_mixed_folder_too(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "data.jsonl").write_text('{"body": "a"}\n')
    with pytest.raises(StarError, match=r"data\.jsonl:1 has no field 'text', only 'body'"):
        read(tmp_path)


def test_the_standard_library_comes_without_tests_packages_and_generated_modules() -> None:
    documents, _ = read("python-stdlib")
    library = Path(sysconfig.get_path("stdlib"))
    assert (library / "argparse.py").read_text() in documents
    assert (library / "json" / "decoder.py").read_text() in documents
    assert 300 < len(documents) < 2000
    text = "\n".join(documents)
    assert "import unittest\nfrom test import support" not in text
    assert "build_time_vars" not in {document.partition(" = ")[0].split("\n")[-1] for document in documents}
    assert read("python-stdlib")[0] == documents


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"text \0 text", "binary"),
        (b"x" * 10_000 + b"\n\0", "binary.*line 2"),
        ("text".encode("utf-16"), "UTF-16"),
        (b"\x1f\x8b\x08rest", "gzip"),
        (b"good line\nbad \xff line\n", "not UTF-8.*0xff"),
    ],
)
def test_a_file_that_is_not_utf8_text_is_refused_by_name(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "odd.txt"
    path.write_bytes(content)
    with pytest.raises(StarError, match=f"odd.txt.*{reason}"):
        read(path)


def test_a_missing_source_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(StarError, match=r"no file or folder '.*nothing'.*python-stdlib"):
        read(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StarError, match="no file or folder"):
        read(tmp_path / "file" / "below")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_refused_because_it_cannot_be_read_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StarError, match="neither a file nor a folder"):
        read(tmp_path / "pipe")


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "private.txt").write_text("secret")

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(StarError, match=r"private\.txt cannot be read \(Permission denied\)"):
        read(tmp_path)
