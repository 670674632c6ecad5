"""What foretells the perplexity of a candidate: that after a part of its training, and its score on the MAD tasks.

The genomes are the first generation of a search, half hybrids and half random (see docs/interpretation.md). Halving
measures all of them at every rung and stops none; a second search has the same genomes as its initial population and
MAD as its objective. The warm-up is a sixteenth of the budget, or it would not fit into the first rung.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from star.evolution import rank_correlation
from star.synthesis import Recipe, Run, Status, evolve
from star.synthesis.trial import TRAIN_CANDIDATE

RUNGS = {"halving.rungs": 4, "halving.reduction": 2, "training.schedule": "trapezoid"}  # 1/8, 1/4, 1/2, all


@dataclass(frozen=True)
class Correlation:
    """Spearman's ρ with the perplexity at the whole budget, over the candidates of one seed that have both."""

    measure: str
    tokens: int
    seed: int
    candidates: int
    correlation: float | None


def correlations(
    base: Recipe, seed: int, runs: Path, *, workers: int | None, trial: str = TRAIN_CANDIDATE
) -> list[Correlation]:
    """Train the genomes of a seed, or find them trained, and correlate. ``trial`` is that of ``evolve``."""
    one = {"search.seed": seed, "search.generations": 1}
    rungs = base.override({**one, **RUNGS, "training.warmup_tokens": base.training.tokens // 16})
    print(f"seed {seed}, perplexity at {len(rungs.rung_tokens)} budgets", file=sys.stderr, flush=True)
    with evolve(rungs, run=runs / f"rungs-{seed}", workers=workers, trial=trial) as run:
        genomes = tuple(candidate.genome for candidate in run.candidates)
        found = [_at_rung(run, rung, tokens, seed) for rung, tokens in enumerate(rungs.rung_tokens[:-1])]
        perplexities = {c.digest: c.perplexity for c in run.candidates if c.status is Status.DONE}
    print(f"seed {seed}, MAD", file=sys.stderr, flush=True)
    settings = {
        **one,
        "search.objectives": "mad",
        "search.initial": genomes,
        "search.population": len(genomes),
        "training.tokens": rungs.rung_tokens[0],  # MAD trains fresh models: the text decides nothing
    }
    with evolve(base.override(settings), run=runs / f"mad-{seed}", workers=workers, trial=trial) as run:
        errors = {c.digest: c.scores["mad"] for c in run.candidates if c.status is Status.DONE}
    both = [digest for digest in perplexities if digest in errors]
    rho = rank_correlation([errors[digest] for digest in both], [perplexities[digest] for digest in both])
    return [*found, Correlation("mad error", base.training.tokens, seed, len(both), rho)]


def _at_rung(run: Run, rung: int, tokens: int, seed: int) -> Correlation:
    both = [c for c in run.candidates if c.status is Status.DONE and len(c.rungs) > rung]
    early = [candidate.rungs[rung].scores["perplexity"] for candidate in both]
    rho = rank_correlation(early, [candidate.perplexity for candidate in both])
    return Correlation("perplexity at a rung", tokens, seed, len(both), rho)


def correlation_summary(rows: Sequence[Correlation]) -> str:
    """A Markdown table: for each measure the correlations by seed."""
    lines = ["| measure | tokens | candidates | rank correlation with perplexity at the whole budget, by seed |"]
    lines.append("|---|---|---|---|")
    for measure, tokens in dict.fromkeys((row.measure, row.tokens) for row in rows):
        own = [row for row in rows if (row.measure, row.tokens) == (measure, tokens)]
        values = ", ".join("–" if row.correlation is None else f"{row.correlation:.2f}" for row in own)
        lines.append(f"| {measure} | {tokens:,} | {', '.join(str(row.candidates) for row in own)} | {values} |")
    return "\n".join(lines)
