from __future__ import annotations

from pathlib import Path

import pytest

from star.data import DataRecipe, TokenizedCorpus, prepare
from star.training import TrainingRecipe


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TokenizedCorpus:
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text("\n\n".join(f"The square of {n} is {n * n}." for n in range(600)))
    return prepare(DataRecipe(source=str(folder / "text.txt")), cache=folder / "cache")


@pytest.fixture
def recipe() -> TrainingRecipe:
    """20 steps of 4 sequences of 16 tokens."""
    return TrainingRecipe(tokens=1280, batch_tokens=64, warmup_tokens=320, length=16, peak_learning_rate=1e-2)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"
