"""How good a search is for the tokens that it trains: two questions, on real text, with several seeds each.

``algorithms``: NSGA-2, GA, Firefly and random search at equal tokens: hypervolume over tokens.
``protocols``: the paper's protocol (every candidate trained on the whole budget, cosine) against halving, halving
with pre-screening, and weight inheritance: tokens until the search has 98% of the hypervolume that the paper's protocol
ends with. Halving trains with another schedule, so the paper's protocol with that schedule is there as a control. With
inheritance, more training lies behind a candidate than its own: its scores are those of its weights, not of an
architecture after a given budget.

Every search is a run directory below ``--runs``: killed and started again, the benchmark goes on where it was. The
volume is that of all candidates that had the whole budget so far, in the box of the first generations of all searches
of a seed (see docs/interpretation.md), so it never falls; beside it stands that of the population alone. Tokens are all
that were trained, candidates that were stopped and repeated decays included.

    python benchmarks/search.py algorithms --seeds 0,1,2 --generations 8
    python benchmarks/search.py protocols --seeds 0,1,2 --generations 8 --halving-generations 16

writes ``benchmarks/results/search-QUESTION.csv``, a row for each generation, and prints a summary as Markdown.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import mean
from typing import Any

from star.synthesis import Candidate, Recipe, Run, Status, evolve
from star.synthesis.run import dominated_share

SHARE = 0.98  # of the final hypervolume of the first condition
HALVING = {"halving.rungs": 2, "halving.reduction": 6, "training.schedule": "trapezoid"}

#: By question and condition: how its recipe differs. The first condition of a question is what the others are held to.
CONDITIONS: dict[str, dict[str, dict[str, Any]]] = {
    "algorithms": {name: {"search.algorithm": name} for name in ("nsga2", "ga", "firefly", "random")},
    "protocols": {
        "paper": {},
        "paper, trapezoid": {"training.schedule": "trapezoid"},
        "halving": HALVING,
        "halving and surrogate": {**HALVING, "surrogate.factor": 4},
        "inheritance": {"inheritance.discount": 0.0},
    },
}


@dataclass(frozen=True)
class Row:
    """What a search has after a generation."""

    condition: str
    seed: int
    generation: int
    candidates: int
    tokens: int
    seconds: float
    hypervolume: float
    population_hypervolume: float


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    base = Recipe.load(options.recipe).override(
        {
            "data.source": options.data,
            "training.tokens": options.tokens,
            "search.population": options.population,
            "search.generations": options.generations,
        }
    )
    rows: list[Row] = []
    for seed in options.seeds:
        paths = {}
        for condition, settings in CONDITIONS[options.question].items():
            recipe = base.override({**settings, "search.seed": seed})
            if recipe.halving is not None:
                recipe = recipe.override({"search.generations": options.halving_generations})
            path = options.runs / options.question / f"{condition.replace(', ', '-').replace(' ', '-')}-{seed}"
            print(f"seed {seed}, {condition}: {path}", file=sys.stderr, flush=True)
            evolve(recipe, run=path, workers=options.workers).close()
            paths[condition] = path
        rows += rows_of(paths, seed)
    target = options.out / f"search-{options.question}.csv"
    write(target, rows, arguments if arguments is not None else sys.argv[1:])
    print(summary(rows))
    return 0


def rows_of(paths: dict[str, Path], seed: int) -> list[Row]:
    """The rows of one seed's searches, all measured in one box."""
    runs = {condition: Run.open(path) for condition, path in paths.items()}
    try:
        first = [candidate for run in runs.values() for candidate in run.candidates if candidate.generation == 1]
        return [row for condition, run in runs.items() for row in _rows(condition, seed, run, first)]
    finally:
        for run in runs.values():
            run.close()


def _rows(condition: str, seed: int, run: Run, first: list[Candidate]) -> list[Row]:
    found = []
    for generation in range(1, run.generations + 1):
        so_far = [candidate for candidate in run.candidates if candidate.generation <= generation]
        done = [candidate for candidate in so_far if candidate.status is Status.DONE]
        found.append(
            Row(
                condition,
                seed,
                generation,
                len(so_far),
                sum(candidate.tokens for candidate in so_far),
                round(sum(candidate.seconds or 0.0 for candidate in so_far), 1),
                round(dominated_share(done, first, run.recipe), 5),
                round(dominated_share(run.population(generation), first, run.recipe), 5),
            )
        )
    return found


def tokens_to(rows: Sequence[Row], volume: float) -> int | None:
    """Tokens of the first generation that has at least ``volume``."""
    return next((row.tokens for row in rows if row.hypervolume >= volume), None)


def summary(rows: Sequence[Row]) -> str:
    """A Markdown table: for each condition the final volume, and the tokens until 98% of the first condition's."""
    conditions = list(dict.fromkeys(row.condition for row in rows))
    seeds = list(dict.fromkeys(row.seed for row in rows))
    head = f"tokens to {SHARE:.0%} of {conditions[0]}"
    lines = [f"| condition | hypervolume at the end, by seed | {head}, by seed | share of its tokens |"]
    lines.append("|---|---|---|---|")
    for condition in conditions:
        volumes, needed, shares = [], [], []
        for seed in seeds:
            own = [row for row in rows if (row.condition, row.seed) == (condition, seed)]
            reference = [row for row in rows if (row.condition, row.seed) == (conditions[0], seed)]
            volume = SHARE * reference[-1].hypervolume
            volumes.append(f"{own[-1].hypervolume:.3f}")
            tokens, theirs = tokens_to(own, volume), tokens_to(reference, volume)
            needed.append("never" if tokens is None else f"{tokens / 1e6:.2f}M")
            if tokens is not None and theirs:
                shares.append(tokens / theirs)
        share = f"{mean(shares):.2f} ({len(shares)} of {len(seeds)} seeds)" if shares else "–"
        lines.append(f"| {condition} | {', '.join(volumes)} | {', '.join(needed)} | {share} |")
    return "\n".join(lines)


def write(path: Path, rows: Sequence[Row], arguments: Sequence[str]) -> None:
    """The rows as CSV below a line with the command."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(f"# python benchmarks/search.py {shlex.join(arguments)}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows(astuple(row) for row in rows)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("question", choices=list(CONDITIONS))
    parser.add_argument("--recipe", default="demo", help="a recipe's name or TOML file (default: demo)")
    parser.add_argument("--data", help="text to train on; default: the recipe's")
    parser.add_argument("--seeds", default="0,1,2", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--halving-generations", type=int, help="of searches with halving; default: --generations")
    parser.add_argument("--population", type=int)
    parser.add_argument("--tokens", type=int, help="of each candidate; default: the recipe's")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-search"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(arguments)
    options.halving_generations = options.halving_generations or options.generations
    return options


if __name__ == "__main__":
    sys.exit(main())
