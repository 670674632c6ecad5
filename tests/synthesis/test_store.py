"""The database of a run: exact round trips, refusals, and readers beside a writer."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from star.errors import StarError
from star.synthesis.candidate import Candidate, Status
from star.synthesis.lock import exclusive, is_locked
from star.synthesis.store import DATABASE, Store

ONE = Candidate(name="1", genome="11111", canonical="11111", digest="aa", seed=2**63 - 1, generation=1)
TWO = Candidate(name="2", genome="21111", canonical="21111", digest="bb", seed=5, parents=("1",), generation=1)
DONE = replace(
    ONE,
    status=Status.DONE,
    scores={"perplexity": 0.1 + 0.2},
    metrics={"perplexity": 1e-17},
    curve=((5, 1 / 3), (10, 2.0)),
    seconds=1.5,
)


def test_candidates_come_back_exactly(tmp_path: Path) -> None:
    with Store.create(tmp_path) as store:
        store.add([TWO, ONE])
        store.finish(DONE)
        store.finish(replace(TWO, status=Status.FAILED, failure="diverged"))
    with Store.open(tmp_path) as store:
        assert store.candidates() == store.candidates(1)
        assert store.candidates() == [
            replace(TWO, status=Status.FAILED, failure="diverged"),
            DONE,
        ]


def test_a_result_is_final(tmp_path: Path) -> None:
    with Store.create(tmp_path) as store:
        store.add([ONE])
        store.finish(DONE)
        with pytest.raises(ValueError, match="not pending"):
            store.finish(replace(DONE, scores={"perplexity": 9.0}))
        assert store.candidates() == [DONE]


def test_adding_is_all_or_nothing_and_no_architecture_enters_twice(tmp_path: Path) -> None:
    with Store.create(tmp_path) as store:
        with pytest.raises(sqlite3.IntegrityError):
            store.add([TWO, ONE, replace(ONE, name="3")])
        assert store.candidates() == []
        store.add([ONE, replace(ONE, name="transformer++", generation=0)])
        assert [candidate.name for candidate in store.candidates()] == ["1"]
        assert [candidate.name for candidate in store.candidates(0)] == ["transformer++"]


def test_populations_keep_their_order(tmp_path: Path) -> None:
    with Store.create(tmp_path) as store:
        store.add([ONE, TWO])
        assert (store.generations(), store.population(1)) == (0, [])
        store.set_population(1, ["2", "1"])
        store.set_population(1, ["2", "1"])
        assert store.population(1) == [TWO, ONE]
        assert store.generations() == 1


def test_a_reader_sees_what_the_writer_has_committed(tmp_path: Path) -> None:
    with Store.create(tmp_path) as writer, Store.open(tmp_path) as reader:
        assert reader.fact("recipe") is None
        writer.put_facts(recipe="{}", corpus_digest="x")
        assert reader.fact("recipe") == "{}"
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.put_facts(recipe="other")


def test_power_cuts_are_waited_for(tmp_path: Path) -> None:
    with Store.create(tmp_path) as store:
        assert store._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert store._connection.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_no_run_and_damaged_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StarError, match="no run"):
        Store.open(tmp_path)
    (tmp_path / DATABASE).write_bytes(b"not a database at all" * 100)
    for opening in (Store.open, Store.create):
        with pytest.raises(StarError, match="cannot be used"):
            opening(tmp_path)


def test_a_run_of_another_format_is_refused(tmp_path: Path) -> None:
    with Store.create(tmp_path) as store:
        store.put_facts(format="99")
    with pytest.raises(StarError, match="format 99"):
        Store.open(tmp_path)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_copy_can_be_read(tmp_path: Path) -> None:
    with Store.create(tmp_path) as store:
        store.add([ONE])
    tmp_path.chmod(0o500)
    try:
        with Store.open(tmp_path) as store:
            assert store.candidates() == [ONE]
    finally:
        tmp_path.chmod(0o700)


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with exclusive(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(StarError, match="in use"), exclusive(tmp_path):
            pass
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    with exclusive(tmp_path):
        pass
