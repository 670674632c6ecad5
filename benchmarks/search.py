"""How good a search is for the tokens and the time that it takes, on real text, with several seeds each.

Questions that searches under several conditions answer:

``algorithms``: NSGA-2, GA, Firefly and random search at equal tokens: hypervolume over tokens.
``protocols``: the paper's protocol (every candidate trained on the whole budget, cosine) against halving, halving
with pre-screening, and weight inheritance: tokens until the search has 98% of the hypervolume that the paper's protocol
ends with. Halving trains with another schedule, so the paper's protocol with that schedule is there as a control. With
inheritance, more training lies behind a candidate than its own: its scores are those of its weights, not of an
architecture after a given budget.
``settings``: the paper's population, generations, cut points and mutation against others, at equal tokens.
``asynchronous``: steady state against generations, at equal tokens: hypervolume and wall time.

And what is measured apart: ``correlations``, what foretells perplexity (see ``search_correlations.py``), and
``overhead``, where the time goes (see ``search_timing.py``).

Every search is a run directory below ``--runs``: killed and started again, the benchmark goes on where it was. The
volume is that of all candidates that had the whole budget so far, in the box of the first generations of all searches
of a seed (see docs/interpretation.md), so it never falls; beside it stands that of the population alone. Tokens are all
that were trained, candidates that were stopped and repeated decays included. At equal tokens, what a search has trained
beyond the fewest tokens of any condition is left out.

    python benchmarks/search.py algorithms --seeds 0,1,2 --generations 8
    python benchmarks/search.py protocols --seeds 0,1,2 --generations 8 --halving-generations 16
    python benchmarks/search.py settings --population 16 --generations 8
    python benchmarks/search.py overhead --seeds 0 --generations 3

writes ``benchmarks/results/search-QUESTION.csv``, a row for each generation (or measurement), and prints a summary as
Markdown.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import accumulate
from pathlib import Path
from statistics import mean
from typing import Any

from search_correlations import correlation_summary, correlations
from search_timing import Wall
from star.synthesis import Candidate, Recipe, Run, Status, evolve
from star.synthesis.run import dominated_share

SHARE = 0.98  # of the final hypervolume of the first condition
HALVING = {"halving.rungs": 2, "halving.reduction": 6, "training.schedule": "trapezoid"}

Settings = dict[str, Any] | Callable[[Recipe], dict[str, Any]]


def wider(base: Recipe) -> dict[str, Any]:
    """Twice the population, with the same share of elites, in half the generations."""
    search = base.search
    generations = max(1, search.generations // 2)
    return {
        "search.population": 2 * search.population,
        "search.elites": 2 * search.elites,
        "search.generations": generations,
    }


#: By question and condition: how its recipe differs. The first condition of a question is what the others are held to.
CONDITIONS: dict[str, dict[str, Settings]] = {
    "algorithms": {name: {"search.algorithm": name} for name in ("nsga2", "ga", "firefly", "random")},
    "protocols": {
        "paper": {},
        "paper, trapezoid": {"training.schedule": "trapezoid"},
        "halving": HALVING,
        "halving and surrogate": {**HALVING, "surrogate.factor": 4},
        "inheritance": {"inheritance.discount": 0.0},
    },
    "settings": {
        "paper": {"search.crossover_points": 2, "search.mutation": 0.1},
        "twice the population in half the generations": wider,
        "one cut point": {"search.crossover_points": 1},
        "mutation 0.2": {"search.mutation": 0.2},
    },
    "asynchronous": {"generational": {}, "steady state": {"search.mode": "steady-state"}},
}
AT_EQUAL_TOKENS = ("settings", "asynchronous")
APART = ("correlations", "overhead")


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
    wall_seconds: float | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.condition, self.seed


@dataclass(frozen=True)
class Overhead:
    """A part of one search's time; ``of`` says what ``share`` is a share of."""

    seed: int
    phase: str
    seconds: float
    share: float
    of: str


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
    rows: list[Any] = []
    for seed in options.seeds:
        if options.question == "correlations":
            rows += correlations(base, seed, options.runs / options.question, workers=options.workers)
        elif options.question == "overhead":
            rows += overhead(base.override({"search.seed": seed}), options.runs / options.question, options.workers)
        else:
            rows += compared(base, seed, options)
    target = options.out / f"search-{options.question}.csv"
    write(target, rows, arguments if arguments is not None else sys.argv[1:])
    summaries = {"correlations": correlation_summary, "overhead": overhead_summary}
    print(summaries.get(options.question, summary)(rows))
    return 0


def compared(base: Recipe, seed: int, options: argparse.Namespace) -> list[Row]:
    """The searches of one seed under all conditions of a question."""
    paths = {}
    for condition in options.only or CONDITIONS[options.question]:
        settings = CONDITIONS[options.question][condition]
        changes = settings(base) if callable(settings) else settings
        recipe = base.override({**changes, "search.seed": seed})
        if recipe.halving is not None:
            recipe = recipe.override({"search.generations": options.halving_generations})
        path = options.runs / options.question / f"{condition.replace(', ', '-').replace(' ', '-')}-{seed}"
        print(f"seed {seed}, {condition}: {path}", file=sys.stderr, flush=True)
        evolve(recipe, run=path, workers=options.workers, listener=Wall(wall_file(path))).close()
        paths[condition] = path
    return rows_of(paths, seed, equal=options.question in AT_EQUAL_TOKENS)


def wall_file(run: Path) -> Path:
    """Beside a run directory."""
    return run.with_name(f"{run.name}.wall.json")


def overhead(recipe: Recipe, runs: Path, workers: int | None) -> list[Overhead]:
    """Make a search in a process of its own, undisturbed from start to end, and say where its time went."""
    run = runs / str(recipe.search.seed)
    found = run.with_name(f"{run.name}.phases.json")
    if not found.is_file():
        shutil.rmtree(run, ignore_errors=True)  # one that was killed would take up less time now
        runs.mkdir(parents=True, exist_ok=True)
        settings = run.with_name(f"{run.name}.toml")
        settings.write_text(recipe.to_toml(), encoding="utf-8")
        script = Path(__file__).with_name("search_process.py")
        subprocess.run([sys.executable, script, settings, run, str(workers or 0), found], check=True)
    return [
        Overhead(
            recipe.search.seed,
            phase["name"],
            round(phase["seconds"], 2),
            round(phase["share"], 5),
            "workers' time" if phase["of_workers"] else "wall time",
        )
        for phase in json.loads(found.read_text())
    ]


def overhead_summary(rows: Sequence[Overhead]) -> str:
    """A Markdown table: seconds and shares of every phase, by seed."""
    lines = ["| phase | seconds, by seed | share, by seed | of |", "|---|---|---|---|"]
    for phase in dict.fromkeys(row.phase for row in rows):
        own = [row for row in rows if row.phase == phase]
        seconds = ", ".join(f"{row.seconds:.2f}" for row in own)
        lines.append(f"| {phase} | {seconds} | {', '.join(f'{row.share:.2%}' for row in own)} | {own[0].of} |")
    return "\n".join(lines)


def rows_of(paths: dict[str, Path], seed: int, *, equal: bool = False) -> list[Row]:
    """The rows of one seed's searches, all measured in one box; with ``equal``, up to the fewest tokens of any."""
    runs = {condition: Run.open(path) for condition, path in paths.items()}
    try:
        first = [candidate for run in runs.values() for candidate in run.candidates if candidate.generation == 1]
        fewest = min(sum(candidate.tokens for candidate in run.candidates) for run in runs.values())
        limit = fewest if equal else None
        return [row for condition, run in runs.items() for row in _rows(condition, seed, run, first, limit)]
    finally:
        for run in runs.values():
            run.close()


def _rows(condition: str, seed: int, run: Run, first: list[Candidate], limit: int | None) -> list[Row]:
    found = []
    within = up_to(run.candidates, limit)
    wall = Wall(wall_file(run.path)).generations
    for generation in range(1, run.generations + 1):
        so_far = [candidate for candidate in within if candidate.generation <= generation]
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
                wall.get(str(generation)),
            )
        )
    return found


def up_to(candidates: Sequence[Candidate], limit: int | None) -> list[Candidate]:
    """The first candidates whose tokens together are at most ``limit``."""
    totals = accumulate(candidate.tokens for candidate in candidates)
    return [each for each, total in zip(candidates, totals, strict=True) if limit is None or total <= limit]


def tokens_to(rows: Sequence[Row], volume: float) -> int | None:
    """Tokens of the first generation that has at least ``volume``."""
    return next((row.tokens for row in rows if row.hypervolume >= volume), None)


def summary(rows: Sequence[Row]) -> str:
    """A Markdown table: for each condition the final volume, and the tokens until 98% of the first condition's."""
    conditions = list(dict.fromkeys(row.condition for row in rows))
    seeds = list(dict.fromkeys(row.seed for row in rows))
    head = f"tokens to {SHARE:.0%} of {conditions[0]}"
    timed = all(row.wall_seconds is not None for row in rows)
    lines = [f"| condition | hypervolume at the end, by seed | {head}, by seed | share of its tokens |"]
    lines.append("|---|---|---|---|")
    if timed:
        lines = [f"{lines[0]} wall time, by seed |", "|---|---|---|---|---|"]
    for condition in conditions:
        volumes, needed, shares = [], [], []
        for seed in seeds:
            own = [row for row in rows if row.key == (condition, seed)]
            reference = [row for row in rows if row.key == (conditions[0], seed)]
            volume = SHARE * reference[-1].hypervolume
            volumes.append(f"{own[-1].hypervolume:.3f}")
            tokens, theirs = tokens_to(own, volume), tokens_to(reference, volume)
            needed.append("never" if tokens is None else f"{tokens / 1e6:.2f}M")
            if tokens is not None and theirs:
                shares.append(tokens / theirs)
        share = f"{mean(shares):.2f} ({len(shares)} of {len(seeds)} seeds)" if shares else "–"
        line = f"| {condition} | {', '.join(volumes)} | {', '.join(needed)} | {share} |"
        ends = [[row for row in rows if row.key == (condition, seed)][-1].wall_seconds for seed in seeds]
        lines.append(f"{line} {', '.join(f'{end:.0f} s' for end in ends)} |" if timed else line)
    return "\n".join(lines)


def write(path: Path, rows: Sequence[Any], arguments: Sequence[str]) -> None:
    """The rows as CSV below a line with the command."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(f"# python benchmarks/search.py {shlex.join(arguments)}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(rows[0])])
        writer.writerows(astuple(row) for row in rows)


def _conditions(text: str) -> list[str]:
    return [part.strip() for part in text.split(";")]


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("question", choices=[*CONDITIONS, *APART])
    parser.add_argument("--recipe", default="demo", help="a recipe's name or TOML file (default: demo)")
    parser.add_argument("--data", help="text to train on; default: the recipe's")
    parser.add_argument("--seeds", default="0,1,2", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--only", type=_conditions, help="conditions, separated by semicolons; default: all")
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--halving-generations", type=int, help="of searches with halving; default: --generations")
    parser.add_argument("--population", type=int)
    parser.add_argument("--tokens", type=int, help="of each candidate; default: the recipe's")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-search"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(arguments)
    known = CONDITIONS.get(options.question, {})
    if unknown := [condition for condition in options.only or [] if condition not in known]:
        parser.error(f"{options.question} has no condition {unknown[0]!r}; choose from {'; '.join(known)}")
    options.halving_generations = options.halving_generations or options.generations
    return options


if __name__ == "__main__":
    sys.exit(main())
