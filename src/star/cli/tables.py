"""Tables of candidates, shared by the commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from star.cli.console import NOTHING, print_table

if TYPE_CHECKING:
    from star.synthesis import Candidate, Recipe


def candidate_table(
    candidates: Sequence[Candidate], recipe: Recipe, *, title: str, mark: frozenset[str] = frozenset()
) -> None:
    """Candidates with what they scored; those named in `mark` get a star."""
    from star.synthesis.objectives import format_bytes, format_count

    rows = [
        (
            candidate.name + ("*" if candidate.name in mark else ""),
            _quality(candidate),
            format_count(candidate.parameters),
            format_bytes(candidate.cache_bytes),
            candidate.canonical,
        )
        for candidate in candidates
    ]
    cache = f"cache at {recipe.cache_length:,}"
    print_table([">#", ">perplexity", ">parameters", f">{cache}", "<genome"], rows, title=title)


def _quality(candidate: Candidate) -> str:
    if candidate.failure is not None:
        return "failed"
    return NOTHING if candidate.perplexity is None else f"{candidate.perplexity:.3f}"
