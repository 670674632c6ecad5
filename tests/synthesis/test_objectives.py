"""The table of objectives: names, static values, and how values are shown."""

from __future__ import annotations

import pytest

from star.errors import StarError
from star.genome import preset
from star.synthesis import parse_objective
from star.synthesis.objectives import Architecture, format_bytes, format_count


def test_names() -> None:
    assert parse_objective(" perplexity ").needs_training
    assert not parse_objective("parameters").needs_training
    cache = parse_objective("cache_bytes@04096")
    assert (cache.name, cache.length, cache.needs_training) == ("cache_bytes@4096", 4096, False)
    assert cache.title == "Cache at 4,096 tokens"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ppl", "choose from perplexity, parameters, cache_bytes@L"),
        ("cache_bytes", "cache_bytes@4096"),
        ("cache_bytes@", "cache_bytes@4096"),
        ("cache_bytes@-1", "cache_bytes@4096"),
        ("cache_bytes@4k", "cache_bytes@4096"),
        ("cache_bytes@0", "cache_bytes@4096"),
        ("parameters@5", "takes no length"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(StarError, match=message):
        parse_objective(text)


def test_static_values_are_the_papers() -> None:
    genome, pool = preset("transformer++", 24)
    architecture = Architecture(genome, pool, width=768, length=4096)
    assert parse_objective("cache_bytes@4096").before_training(architecture) == 150_994_944
    assert parse_objective("parameters").before_training(architecture) == pytest.approx(85e6, rel=0.01)
    assert parse_objective("perplexity").before_training(architecture) is None


def test_formats() -> None:
    assert format_bytes(150_994_944) == "151 MB"
    assert format_bytes(0) == "0 B"
    assert format_bytes(999) == "999 B"
    assert format_bytes(25_700_000) == "25.7 MB"
    assert format_count(999_999) == "1.00M"
    assert format_count(12_345) == "12.3K"
    assert parse_objective("perplexity").format(3.14159) == "3.142"
