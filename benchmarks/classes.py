"""What each LIV class learns from the same real text: a table of parameters, cache, perplexity and training speed.

Each class stands in a backbone of four LIVs, itself and the memoryless unit in turn, and is trained on the same tokens
in the same order. Classes run one after the other on one thread, so that speeds can be compared; a class that is in the
CSV file already, with the same settings, is not trained again. Run

    python benchmarks/classes.py [--classes 1,5,18-31] [--width D] [--length L] [--tokens N] [--data TEXT] [--out DIR]

It writes ``classes.csv`` and ``classes.md`` into the folder. The exit status is 1 where a loss is not finite or did not
fall.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import fmean

from star import LanguageModel, OptionPool
from star.data import DataRecipe, TokenizedCorpus, prepare
from star.evaluation import perplexity
from star.genome.variation import interleaved
from star.lm import analyse
from star.training import Diverged, TrainingRecipe, train

DEPTH, MEMORYLESS, CACHE_LENGTH = 4, 9, 4096
EDGE = 8  # steps whose losses are averaged at the start and at the end


@dataclass(frozen=True)
class Row:
    """One class. Losses in nats a token; `first_loss` and `last_loss` are those of the first and last steps."""

    liv: int
    name: str
    parameters: int
    cache_bytes: int
    first_loss: float
    last_loss: float
    perplexity: float
    tokens_per_second: float
    tokens: int
    width: int
    length: int

    @property
    def settings(self) -> tuple[int, ...]:
        return self.liv, self.tokens, self.width, self.length


def measured(liv: int, pool: OptionPool, width: int, recipe: TrainingRecipe, corpus: TokenizedCorpus) -> Row:
    """Train one class. Raises `Diverged` where the loss is no number."""
    genome = interleaved(liv, MEMORYLESS, DEPTH)
    cost = analyse(genome, pool, width=width, length=CACHE_LENGTH)
    model = LanguageModel.from_genome(
        genome, pool=pool, width=width, vocab_size=corpus.vocab_size, length=recipe.length, seed=0
    )
    result = train(model, corpus, recipe, seed=0)
    evaluation = perplexity(model, corpus.validation, length=recipe.length, tokens=recipe.validation_tokens)
    losses = [loss for _, loss in result.curve]
    return Row(
        liv,
        pool[liv].name,
        cost.parameters,
        cost.cache_bytes,
        fmean(losses[:EDGE]),
        fmean(losses[-EDGE:]),
        evaluation.perplexity,
        result.tokens / result.seconds,
        result.tokens,
        width,
        recipe.length,
    )


def known(path: Path) -> dict[tuple[int, ...], Row]:
    """What earlier runs have measured."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        kinds = {"int": int, "float": float, "str": str}
        rows = [
            Row(**{field.name: kinds[str(field.type)](line[field.name]) for field in fields(Row)})  # type: ignore[arg-type]
            for line in csv.DictReader(file)
        ]
    return {row.settings: row for row in rows}


def write(rows: list[Row], folder: Path) -> None:
    with (folder / "classes.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows(astuple(row) for row in rows)
    lines = [
        "| class | name | parameters | cache bytes at 4096 | perplexity | first loss | last loss | tokens/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.liv} | {row.name} | {row.parameters:,} | {row.cache_bytes:,} | {row.perplexity:.3f} | "
        f"{row.first_loss:.3f} | {row.last_loss:.3f} | {row.tokens_per_second:,.0f} |"
        for row in rows
    ]
    (folder / "classes.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def class_ids(text: str) -> list[int]:
    """``1,5,18-31`` as numbers."""
    ids: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        ids += range(int(first), int(last or first) + 1)
    return ids


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=class_ids, default=class_ids("1,5,7,18-31"))
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=524_288)
    parser.add_argument("--data", default="python-stdlib")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pool = OptionPool.full()
    recipe = TrainingRecipe(
        tokens=options.tokens,
        batch_tokens=8 * options.length,
        warmup_tokens=options.tokens // 10,
        length=options.length,
        peak_learning_rate=4e-3,
        precision="fp32",
        validation_tokens=65_536,
    )
    corpus = prepare(DataRecipe(source=options.data), length=options.length)
    path = options.out / "classes.csv"
    rows, before, failed = [], known(path), False
    for liv in options.classes:
        settings = (liv, recipe.steps * recipe.step_tokens, options.width, options.length)
        try:
            row = before.get(settings) or measured(liv, pool, options.width, recipe, corpus)
        except Diverged as diverged:
            print(f"{pool[liv].name}: {diverged}", file=sys.stderr)
            failed = True
            continue
        failed |= not row.last_loss < row.first_loss
        rows.append(row)
        write(rows, options.out)
        print(f"{row.name}: perplexity {row.perplexity:.3f}, {row.tokens_per_second:,.0f} tokens/s", flush=True)
    print((options.out / "classes.md").read_text())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
