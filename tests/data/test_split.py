from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star.data.sources import Source
from star.data.split import Side, describe, distinct, document_digest, readable_size, scan
from star.errors import StarError

texts = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), min_size=2, max_size=30)


def source_of(documents: list[str]) -> Source:
    def read(skipped: Counter[str]) -> Iterator[str]:
        yield from documents

    return Source("texts", read)


def sides(documents: list[str], fraction: float) -> dict[str, Side]:
    split = scan(source_of(documents), fraction).split
    return {text: split.side(digest) for digest, text in distinct(source_of(documents), Counter())}


@settings(deadline=None)
@given(texts.filter(lambda documents: len(set(documents)) > 1), st.floats(0.001, 0.999))
def test_both_sides_get_a_document_and_none_is_on_both(documents: list[str], fraction: float) -> None:
    found = sides(documents, fraction)
    assert set(found) == set(documents)
    assert set(found.values()) == {Side.TRAIN, Side.VALIDATION}


@settings(deadline=None)
@given(texts.filter(lambda documents: len(set(documents)) > 1), st.randoms())
def test_the_split_depends_on_content_and_not_on_order_or_repetition(documents: list[str], random: object) -> None:
    shuffled = documents * 2
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sides(documents, 0.2) == sides(shuffled, 0.2)


def test_the_held_out_share_is_as_asked() -> None:
    found = sides([f"document {index}" for index in range(4000)], 0.1)
    held_out = Counter(found.values())[Side.VALIDATION]
    assert 320 < held_out < 480


def test_held_out_documents_stay_held_out_when_text_is_added() -> None:
    documents = [f"document {index}" for index in range(500)]
    before, after = sides(documents, 0.1), sides([*documents, *map(str, range(500))], 0.1)
    assert {text: after[text] for text in before} == before


def test_the_digest_names_the_distinct_documents() -> None:
    once, twice = scan(source_of(["a", "b"]), 0.1), scan(source_of(["a", "b", "a"]), 0.1)
    assert once.digest == twice.digest
    assert twice.skipped == {"repeated": 1}
    assert scan(source_of(["a", "c"]), 0.1).digest != once.digest
    assert scan(source_of(["ab", "c"]), 0.1).digest != scan(source_of(["a", "bc"]), 0.1).digest


@pytest.mark.parametrize(("documents", "reason"), [([], "no text"), (["a"], "single document"), (["a", "a"], "single")])
def test_too_few_documents_are_refused(documents: list[str], reason: str) -> None:
    with pytest.raises(StarError, match=f"^texts holds .*{reason}"):
        scan(source_of(documents), 0.1)


def test_a_description_tells_what_there_is_and_what_was_left_out() -> None:
    found = scan(source_of(["é" * 600, "b" * 34, "b" * 34]), 0.1)
    found.skipped["empty"] += 3
    assert describe("notes", found) == "notes: 2 documents, 1.2 kB (skipped: 1 repeated)"


@pytest.mark.parametrize(
    ("size", "text"), [(999, "999 bytes"), (1500, "1.5 kB"), (11_200_000, "11.2 MB"), (5_000_000_000_000, "5000.0 GB")]
)
def test_sizes_have_units(size: int, text: str) -> None:
    assert readable_size(size) == text


def test_a_document_digest_is_that_of_its_utf8_bytes() -> None:
    assert len(document_digest("é")) == 16
    assert document_digest("é") != document_digest("e")
