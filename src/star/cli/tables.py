"""Tables of candidates, shared by the commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from star.cli.console import NOTHING, print_table

if TYPE_CHECKING:
    from star.synthesis import Candidate, Objective, Recipe


def candidate_table(
    candidates: Sequence[Candidate], recipe: Recipe, *, title: str, mark: frozenset[str] = frozenset()
) -> None:
    """Candidates with what they scored; those named in `mark` get a star."""
    from star.synthesis.objectives import format_bytes, format_count

    cache = f"cache_bytes@{recipe.cache_length}"
    others = [measure for measure in recipe.measures if measure.name not in ("perplexity", "parameters", cache)]
    rows = [
        (
            candidate.name + ("*" if candidate.name in mark else ""),
            _quality(candidate),
            format_count(candidate.parameters),
            format_bytes(candidate.cache_bytes),
            *(_score(candidate, measure) for measure in others),
            candidate.canonical,
        )
        for candidate in candidates
    ]
    heads = [">#", ">perplexity", ">parameters", f">cache at {recipe.cache_length:,}"]
    print_table([*heads, *(f">{_head(measure)}" for measure in others), "<genome"], rows, title=title)


def _head(measure: Objective) -> str:
    return measure.title[:1].lower() + measure.title[1:].removesuffix(" tokens")


def _score(candidate: Candidate, measure: Objective) -> str:
    value = candidate.scores.get(measure.name)
    return NOTHING if value is None else measure.format(value)


def _quality(candidate: Candidate) -> str:
    if candidate.failure is not None:
        return "failed"
    return NOTHING if candidate.perplexity is None else f"{candidate.perplexity:.3f}"
