"""A small text, its cache, and a search so small that only the machinery takes time."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from star.synthesis import Recipe


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty short documents as JSONL."""
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    words = ["search", "architecture", "begins", "with", "a", "population", "of", "genomes", "ends", "front"]
    documents = [{"text": " ".join(rng.choices(words, k=80)) + f" {index}"} for index in range(60)]
    path.write_text("\n".join(map(json.dumps, documents)))
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAR_CACHE", str(cache))


@pytest.fixture(scope="session")
def recipe(text: Path) -> Recipe:
    return small_recipe(text)


def small_recipe(text: Path) -> Recipe:
    return Recipe.load("demo").override(
        {
            "model.depth": 4,
            "model.width": 32,
            "data.source": str(text),
            "training.tokens": 2048,
            "training.batch_tokens": 512,
            "training.length": 64,
            "training.validation_tokens": 512,
            "search.objectives": "perplexity,cache_bytes@4096",
            "search.population": 6,
            "search.generations": 3,
        }
    )
