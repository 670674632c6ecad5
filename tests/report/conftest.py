"""The run that most tests of the report look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from written_runs import recipe, write_run

from star.synthesis import Run


@pytest.fixture(scope="session")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three generations of six for two objectives, with baselines."""
    return write_run(tmp_path_factory.mktemp("run") / "a <run>", recipe(), ended=3, baselines=True)


@pytest.fixture
def run(run_path: Path) -> Iterator[Run]:
    with Run.open(run_path) as opened:
        yield opened
