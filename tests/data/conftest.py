from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder of 40 short distinct documents."""
    folder = tmp_path / "notes"
    folder.mkdir()
    for index in range(40):
        (folder / f"{index:02}.txt").write_text(f"Note {index}: the value is {index * index}, ünïcode.\n" * 5)
    return folder
