"""The run that most tests of the report look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from written_runs import COMPOSED, recipe, write_composed_run, write_run

from star.synthesis import Recipe, Run


@pytest.fixture(scope="session")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three generations of six for two objectives, with baselines."""
    return write_run(tmp_path_factory.mktemp("run") / "a <run>", recipe(), ended=3, baselines=True)


@pytest.fixture
def run(run_path: Path) -> Iterator[Run]:
    with Run.open(run_path) as opened:
        yield opened


#: Parallel paths in one line and in three, under each routing; residual links; identities.
COMPOSED_GENOMES = [
    "1.1.1.1.1.1.0.1 0.1.1.1.1.0.0.1 9.1.1.1.1.0.1.2 23.1.1.1.1.0.1.1 1.1.2.1.4.1.0.1 9.2.1.2.1.0.0.1",
    "18.1.1.1.1.0.1.3 18.1.2.1.4.0.1.1 " + " ".join(f"{liv}.1.1.1.1.0.1.1" for liv in range(20, 27)) + " 00000",
    "5.1.1.1.1.0.1.1 6.1.1.1.1.0.1.1 0.1.1.1.1.0.0.1 0.1.1.1.1.0.0.1 9.1.1.1.1.0.0.1 9.2.1.2.1.0.0.1",
]


@pytest.fixture
def composed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run over the pool of all classes with every extension."""
    monkeypatch.setattr(Recipe, "pool", property(lambda self: COMPOSED))
    with Run.open(write_composed_run(tmp_path / "composed", recipe(), COMPOSED_GENOMES)) as opened:
        yield opened
