"""Tokens a second of a whole search, beside the same search in plain PyTorch with default threads.

Both search the same space with the same seed and the same number of workers, each in a fresh process: ours as
``star evolve`` would, the other with ``plain.py``'s operators and as many threads in each worker as PyTorch takes by
default, one for each core. They take turns; ratios are formed round by round. Training alone counts the seconds that
workers spent in training steps; end to end counts everything from the start of the process, such as importing, reading
the text, evaluation and the search itself. Native kernels are compiled before, once for a machine; ``--cold`` lets
every search of ours compile them anew. Run

    python benchmarks/throughput.py [--depth N] [--width D] [--population N] [--generations N] [--tokens N] [--rounds N]
        [--cold]

It writes ``throughput.csv`` and ``throughput.md``, with ``--cold`` ``throughput-cold.csv`` and ``.md``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import median
from time import perf_counter

CONDITIONS = ("ours", "plain")
FEWEST_ROUNDS = 5
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Row:
    """One search. `training` and `end_to_end`: tokens a second of all workers together."""

    round: int
    condition: str
    candidates: int
    failed: int
    tokens: int
    seconds: float
    training: float
    end_to_end: float


def search(condition: str, run: Path, options: argparse.Namespace) -> dict[str, float]:
    """The search itself, in this process: what was trained, and the seconds that training took."""
    from star.machine import usable_cores
    from star.synthesis import Candidate, Recipe, evolve
    from star.synthesis.events import CandidateStep, Event
    from star.synthesis.trial import TRAIN_CANDIDATE

    recipe = Recipe.load("demo").override(
        {
            "model.depth": options.depth,
            "model.width": options.width,
            "training.tokens": options.tokens,
            "training.threads": 1 if condition == "ours" else usable_cores(),
            "search.population": options.population,
            "search.generations": options.generations,
        }
    )
    trained: dict[str, tuple[int, float]] = {}

    def listen(event: Event) -> None:
        if isinstance(event, CandidateStep):
            report = event.report
            trained[event.candidate.name] = report.tokens, report.tokens / report.tokens_per_second

    trial = TRAIN_CANDIDATE if condition == "ours" else "plain:train_candidate"
    with evolve(recipe, run=run, workers=options.workers, listener=listen, trial=trial) as found:
        candidates: list[Candidate] = found.candidates
    return {
        "candidates": len(candidates),
        "failed": sum(candidate.failure is not None for candidate in candidates),
        "tokens": sum(tokens for tokens, _ in trained.values()),
        "training_seconds": sum(seconds for _, seconds in trained.values()) / options.workers,
    }


def measured(number: int, condition: str, options: argparse.Namespace, arguments: list[str]) -> Row:
    """A search in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
        environment.pop("OMP_NUM_THREADS", None)
        if options.cold:
            environment["STAR_CACHE"] = f"{folder}/cache"
        command = [sys.executable, __file__, *arguments, "--search", condition, "--run", f"{folder}/run"]
        start = perf_counter()
        output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        seconds = perf_counter() - start
    facts = json.loads(output.splitlines()[-1])
    tokens = int(facts["tokens"])
    return Row(
        number,
        condition,
        int(facts["candidates"]),
        int(facts["failed"]),
        tokens,
        round(seconds, 2),
        round(tokens / facts["training_seconds"]),
        round(tokens / seconds),
    )


def markdown(rows: list[Row], options: argparse.Namespace) -> str:
    """Medians of both conditions, and of the ratios of paired rounds."""
    by_condition = {name: [row for row in rows if row.condition == name] for name in CONDITIONS}
    pairs = list(zip(by_condition["ours"], by_condition["plain"], strict=True))
    lines = [
        "# Throughput of a search",
        "",
        f"{rows[0].candidates} candidates of {options.depth} LIVs at width {options.width}, {options.tokens:,} tokens "
        f"each, {options.workers} workers; tokens a second of all together, medians of {len(pairs)} rounds, lowest and "
        f"highest ratio in brackets{'; kernels compiled anew each time' if options.cold else ''}.",
        "",
        "| | ours | plain PyTorch, default threads | ratio |",
        "|---|---:|---:|---:|",
    ]
    for name, label in (("training", "training alone"), ("end_to_end", "end to end")):
        middles = [median(getattr(row, name) for row in by_condition[condition]) for condition in CONDITIONS]
        ratios = sorted(getattr(our, name) / getattr(their, name) for our, their in pairs)
        lines.append(
            f"| {label} | {middles[0]:,.0f} | {middles[1]:,.0f} | {median(ratios):.2f} ({ratios[0]:.2f} to "
            f"{ratios[-1]:.2f}) |"
        )
    return "\n".join(lines) + "\n"


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--population", type=int, default=8)
    parser.add_argument("--generations", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=49_152)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=FEWEST_ROUNDS, help=f"at least {FEWEST_ROUNDS}")
    parser.add_argument("--cold", action="store_true", help="compile kernels and read the text anew each time")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--search", choices=CONDITIONS, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rounds < FEWEST_ROUNDS:
        parser.error(f"{options.rounds} rounds say too little; take at least {FEWEST_ROUNDS}")
    return options


def main() -> int:
    arguments = sys.argv[1:]
    options = parsed(arguments)
    if options.search:
        print(json.dumps(search(options.search, options.run, options)))
        return 0
    from star.data import DataRecipe, prepare
    from star.liv.kernels import fingerprint

    print(fingerprint())  # compiles
    prepare(DataRecipe(), length=256)
    rows: list[Row] = []
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / ("throughput-cold" if options.cold else "throughput")
    with stem.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        for number in range(1, options.rounds + 1):
            for condition in CONDITIONS if number % 2 else CONDITIONS[::-1]:
                rows.append(measured(number, condition, options, arguments))
                writer.writerow(astuple(rows[-1]))
                file.flush()
                print(rows[-1], flush=True)
    table = markdown(rows, options)
    stem.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
