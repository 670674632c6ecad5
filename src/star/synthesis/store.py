"""The run directory's database: one SQLite file with one writer, consistent after a kill at any moment.

Every change is one transaction in WAL mode with ``synchronous=FULL``, so what was written is there after a power cut
too. Not for network file systems, whose locks WAL cannot use.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from star.errors import StarError
from star.genome import LivClass
from star.synthesis.candidate import Candidate, Rung, Status

CALIBRATION = "calibration"  # the fact that holds one, see star.synthesis.calibration
DATABASE = "run.db"
FORMAT = 1
_PLACES = ("bred_after", "ended")  # of candidates in steady state

_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE candidates (
    name TEXT PRIMARY KEY,
    position INTEGER UNIQUE NOT NULL,
    generation INTEGER NOT NULL,
    genome TEXT NOT NULL,
    canonical TEXT NOT NULL,
    digest TEXT NOT NULL,
    seed INTEGER NOT NULL,
    parents TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'done', 'failed', 'stopped')),
    parameters INTEGER NOT NULL,
    cache_bytes INTEGER NOT NULL,
    failure TEXT,
    seconds REAL,
    data TEXT NOT NULL
);
CREATE UNIQUE INDEX one_trial_each ON candidates (digest) WHERE generation > 0;
CREATE TABLE populations (
    generation INTEGER NOT NULL,
    place INTEGER NOT NULL,
    candidate TEXT NOT NULL REFERENCES candidates (name),
    PRIMARY KEY (generation, place)
) WITHOUT ROWID;
"""


class Store:
    """Facts, candidates, baselines (candidates of generation 0) and populations of one run."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.row_factory = sqlite3.Row

    @classmethod
    def create(cls, run: Path) -> Store:
        """Open the database of a run for writing, making directory and database where there are none."""
        run.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(run / DATABASE, isolation_level=None, timeout=30)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            store = cls(connection)
            with store._transaction():
                if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                    for statement in _SCHEMA.split(";\n"):
                        connection.execute(statement)
                    store._put_fact("format", str(FORMAT))
            store._check_format(run)
        except sqlite3.DatabaseError as error:
            connection.close()
            raise StarError(_damaged(run, error)) from None
        except StarError:
            connection.close()
            raise
        return store

    @classmethod
    def open(cls, run: Path) -> Store:
        """Open an existing database for reading only; StarError where there is none."""
        path = run / DATABASE
        if not path.is_file():
            raise StarError(f"{str(run)!r} is no run: there is no {DATABASE} in it; name the directory of a search")
        # A directory that nobody may write to cannot hold the files that WAL needs, and needs none.
        mode = "mode=ro" if os.access(run, os.W_OK) else "immutable=1"
        try:
            uri = f"{path.resolve().as_uri()}?{mode}"
            store = cls(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30))
            store._check_format(run)
        except sqlite3.DatabaseError as error:
            raise StarError(_damaged(run, error)) from None
        return store

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_format(self, run: Path) -> None:
        found = self.fact("format")
        if found != str(FORMAT):
            raise StarError(f"the run {str(run)!r} has format {found}, this version of STAR reads {FORMAT}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    # Facts: single values about the whole run.

    def fact(self, name: str) -> str | None:
        """The value of a fact, None if it is not known yet."""
        row = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row["value"])

    def put_facts(self, **facts: str) -> None:
        """Set or replace facts, all or none."""
        with self._transaction():
            for name, value in facts.items():
                self._put_fact(name, value)

    def _put_fact(self, name: str, value: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def forget(self) -> None:
        """Drop every fact but the format, every candidate and every population: the run is as good as new."""
        with self._transaction():
            self._connection.execute("DELETE FROM populations")
            self._connection.execute("DELETE FROM candidates")
            self._connection.execute("DELETE FROM facts WHERE name != 'format'")

    # Classes that the search has derived, beside those of the recipe.

    def derived(self) -> list[LivClass]:
        """The derived classes, by id."""
        return [LivClass.from_dict(row) for row in json.loads(self.fact("derived") or "[]")]

    def set_derived(self, rows: Sequence[LivClass]) -> None:
        """Record all derived classes."""
        self.put_facts(derived=json.dumps([row.to_dict() for row in rows]))

    # Candidates.

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Add candidates in the order given, all or none."""
        with self._transaction():
            (last,) = self._connection.execute("SELECT coalesce(max(position), 0) FROM candidates").fetchone()
            for position, candidate in enumerate(candidates, start=last + 1):
                row = {**_to_row(candidate), "position": position}
                names = ", ".join(row)
                slots = ", ".join(f":{name}" for name in row)
                self._connection.execute(f"INSERT INTO candidates ({names}) VALUES ({slots})", row)

    def finish(self, candidate: Candidate) -> None:
        """Record how a pending candidate ended, or how far it has come."""
        row = _to_row(candidate)
        assignments = ", ".join(f"{name} = :{name}" for name in row if name != "name")
        with self._transaction():
            changed = self._connection.execute(
                f"UPDATE candidates SET {assignments} WHERE name = :name AND status = 'pending'", row
            ).rowcount
            if changed != 1:
                raise ValueError(f"candidate {candidate.name} is not pending")

    def candidates(self, generation: int | None = None) -> list[Candidate]:
        """The candidates in the order asked, of one generation or of all (baselines are generation 0)."""
        where = "generation > 0" if generation is None else "generation = ?"
        values = () if generation is None else (generation,)
        rows = self._connection.execute(f"SELECT * FROM candidates WHERE {where} ORDER BY position", values)
        return [_from_row(row) for row in rows]

    def named(self, names: Sequence[str]) -> list[Candidate]:
        """The candidates of these names, in the order asked."""
        slots = ", ".join("?" * len(names))
        query = f"SELECT * FROM candidates WHERE name IN ({slots}) ORDER BY position"
        return [_from_row(row) for row in self._connection.execute(query, list(names))]

    # Populations.

    def set_population(self, generation: int, names: Sequence[str]) -> None:
        """Record the survivors of a generation, best first; recording the same ones again changes nothing."""
        with self._transaction():
            self._connection.execute("DELETE FROM populations WHERE generation = ?", (generation,))
            self._connection.executemany(
                "INSERT INTO populations VALUES (?, ?, ?)",
                [(generation, place, name) for place, name in enumerate(names)],
            )

    def population(self, generation: int) -> list[Candidate]:
        """The survivors of a generation, best first; empty if it has not ended."""
        rows = self._connection.execute(
            "SELECT candidates.* FROM populations JOIN candidates ON candidates.name = populations.candidate "
            "WHERE populations.generation = ? ORDER BY place",
            (generation,),
        )
        return [_from_row(row) for row in rows]

    def generations(self) -> int:
        """How many generations have ended."""
        (last,) = self._connection.execute("SELECT coalesce(max(generation), 0) FROM populations").fetchone()
        return int(last)


def _to_row(candidate: Candidate) -> dict[str, Any]:
    return {
        "name": candidate.name,
        "generation": candidate.generation,
        "genome": candidate.genome,
        "canonical": candidate.canonical,
        "digest": candidate.digest,
        "seed": candidate.seed,
        "parents": " ".join(candidate.parents),
        "status": candidate.status.value,
        "parameters": candidate.parameters,
        "cache_bytes": candidate.cache_bytes,
        "failure": candidate.failure,
        "seconds": candidate.seconds,
        "data": json.dumps(
            {
                "scores": candidate.scores,
                "metrics": candidate.metrics,
                "curve": candidate.curve,
                "violated": candidate.violated,
                "rungs": [[rung.tokens, rung.scores] for rung in candidate.rungs],
                "tokens": candidate.tokens,
                **{name: place for name in _PLACES if (place := getattr(candidate, name)) is not None},
                **({"inherited_tokens": candidate.inherited_tokens} if candidate.inherited_tokens else {}),
            }
        ),
    }


def _from_row(row: sqlite3.Row) -> Candidate:
    values = {name: row[name] for name in row.keys() if name not in ("position", "data")}  # noqa: SIM118
    data = json.loads(row["data"])
    data.pop("details", None)  # earlier runs have it
    values["parents"] = tuple(values["parents"].split())
    values["status"] = Status(values["status"])
    data["curve"] = tuple((int(tokens), float(loss)) for tokens, loss in data["curve"])
    data["rungs"] = tuple(Rung(tokens, scores) for tokens, scores in data.get("rungs", ()))
    data["violated"] = tuple(data.get("violated", ()))
    return Candidate(**values, **data)


def _damaged(run: Path, error: Exception) -> str:
    return f"the database {str(run / DATABASE)!r} cannot be used ({error}); name another run directory"
