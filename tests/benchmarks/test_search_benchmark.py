"""The arithmetic of the search benchmark: tokens to a volume, and the CSV with its command."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

SPEC = importlib.util.spec_from_file_location(
    "search_benchmark", Path(__file__).parents[2] / "benchmarks" / "search.py"
)
assert SPEC is not None
assert SPEC.loader is not None
benchmark = importlib.util.module_from_spec(SPEC)
sys.modules["search_benchmark"] = benchmark
SPEC.loader.exec_module(benchmark)


def rows(condition: str, *points: tuple[int, float]) -> list:
    return [
        benchmark.Row(condition, 0, generation, 0, tokens, 0.0, volume, volume)
        for generation, (tokens, volume) in enumerate(points, start=1)
    ]


def test_tokens_are_those_of_the_first_generation_that_is_there(tmp_path: Path) -> None:
    paper = rows("paper", (1_000_000, 0.5), (2_000_000, 0.99), (3_000_000, 1.0))
    halving = rows("halving", (1_000_000, 0.5), (1_200_000, 0.98), (1_400_000, 1.1))
    poor = rows("poor", (1_000_000, 0.5))
    assert benchmark.tokens_to(halving, 0.98) == 1_200_000
    table = benchmark.summary([*paper, *halving, *poor])
    assert "| paper | 1.000 | 2.00M | 1.00 (1 of 1 seeds) |" in table
    assert "| halving | 1.100 | 1.20M | 0.60 (1 of 1 seeds) |" in table
    assert "| poor | 0.500 | never | – |" in table
    benchmark.write(tmp_path / "new" / "rows.csv", paper, ["protocols", "--seeds", "0"])
    command, head, first, *_ = (tmp_path / "new" / "rows.csv").read_text().splitlines()
    assert command == "# python benchmarks/search.py protocols --seeds 0"
    assert head.startswith("condition,seed,generation")
    assert first.startswith("paper,0,1,0,1000000")
