"""The table of objectives: names, static values, and how values are shown."""

from __future__ import annotations

import pytest

from star.errors import StarError
from star.genome import preset
from star.synthesis import parse_objective
from star.synthesis.objectives import Architecture, format_bytes, format_count, format_seconds, parse_constraint


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
        ("flops", "flops@4096"),
        ("python:score", "names no function; write python:MODULE.FUNCTION"),
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
    assert format_seconds(0.00123) == "1.23 ms"
    assert parse_objective("flops@8").format(2.5e9) == "2.50 GFLOP"


def test_objectives_of_ones_own_are_named_by_their_function() -> None:
    own = parse_objective("python:metrics.of.sparsity_of_heads")
    assert (own.name, own.title) == ("python:metrics.of.sparsity_of_heads", "sparsity of heads")
    assert own.needs_training
    assert own.after_training({own.name: 3.0, "perplexity": 5.0}) == 3.0


@pytest.mark.parametrize(
    ("text", "canonical", "kept", "broken"),
    [
        ("parameters<=80e6", "parameters<=80000000", 80e6, 80e6 + 1),
        (" flops@64 >= 1e9", "flops@64>=1000000000", 1e9, 1e9 - 1),
        ("perplexity<=12.5", "perplexity<=12.5", 12.5, 12.6),
    ],
)
def test_constraints(text: str, canonical: str, kept: float, broken: float) -> None:
    constraint = parse_constraint(text)
    assert constraint.text == canonical
    assert parse_constraint(canonical) == constraint
    assert constraint.holds(kept)
    assert not constraint.holds(broken)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parameters", "OBJECTIVE<=NUMBER"),
        ("parameters<80", "OBJECTIVE<=NUMBER"),
        ("parameters<=many", "'many'"),
        ("parameters<=nan", "no number"),
        ("size<=5", "choose from perplexity"),
    ],
)
def test_mistakes_in_constraints(text: str, message: str) -> None:
    with pytest.raises(StarError, match=message):
        parse_constraint(text)


def test_mad_is_measured_on_fresh_models_of_the_candidates_genome(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from star import LanguageModel
    from star.evaluation import mad_score
    from star.synthesis.measures import measure

    asked = []

    def scores(make_model, *, seed, settings, device):  # type: ignore[no-untyped-def]
        asked.append(make_model(19, 32, 5))
        return {"one": 0.25, "other": 0.75}

    monkeypatch.setattr(mad_score, "mad_scores", scores)
    model = LanguageModel.from_genome("11111 91111", width=32, vocab_size=257)
    context = SimpleNamespace(recipe=SimpleNamespace(training=SimpleNamespace(threads=1)), seed=3, device="cpu")
    assert measure(parse_objective("mad"), model, context) == 0.5  # type: ignore[arg-type]
    assert (asked[0].config.genome, asked[0].config.width, asked[0].config.vocab_size) == (model.config.genome, 32, 19)
