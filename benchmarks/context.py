"""Time per generated token, and bytes of state, after a short and after a long context.

For each architecture one model and two states, one filled with SHORT tokens and one with LONG; rounds of single tokens
alternate between them on one thread, so that both meet the same machine. Reported are the medians over the rounds, and
the median and range of the ratio within a round. Run

    python benchmarks/context.py [TARGET ...] [--depth N] [--width D] [--short N] [--long N] [--rounds N] [--out FILE]

The exit status is 1 where the median ratio is above --limit or the bytes of state differ. A target is a preset or a
genome over the extended pool; default: the presets of the Deformer, and a backbone of state spaces.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import median

import torch

from star import BackboneGenome, LanguageModel, OptionPool
from star.backbone import State
from star.genome import PRESETS, Extension, preset

VOCAB = 257
CHUNK = 4096  # tokens of a prefill step
TOKENS = 64  # a round
DEFAULT = ("deformer", "deformer-only", "20.1.1.1.1 9.1.1.1.1 21.1.1.1.1 9.1.1.1.1")


@dataclass(frozen=True)
class Row:
    """Milliseconds a token after each context, and the ratio long over short of paired rounds."""

    target: str
    short: int
    long: int
    short_ms: float
    long_ms: float
    ratio: float
    lowest_ratio: float
    highest_ratio: float
    short_bytes: int
    long_bytes: int


def build(target: str, depth: int, width: int) -> LanguageModel:
    if target in PRESETS:
        genome, pool = preset(target, depth)
    else:
        genome, pool = BackboneGenome.parse(target), OptionPool.full().with_extensions(*Extension)
    return LanguageModel.from_genome(genome, pool=pool, width=width, vocab_size=VOCAB, seed=0).eval()


def filled(model: LanguageModel, context: int, more: int) -> State:
    """A state that holds `context` random tokens and has room for `more`."""
    tokens = torch.randint(0, VOCAB, (1, context), generator=torch.Generator().manual_seed(0))
    state = model.init_state(1, context + more)
    for part in tokens.split(CHUNK, dim=1):
        model.hidden(part, state)
    return state


def decode(model: LanguageModel, state: State) -> float:
    """Seconds a token over a round of greedy tokens."""
    token = torch.zeros(1, 1, dtype=torch.long)
    start = time.perf_counter()
    for _ in range(TOKENS):
        token = model(token, state)[:, -1].argmax(-1, keepdim=True)
    return (time.perf_counter() - start) / TOKENS


def measured(target: str, options: argparse.Namespace) -> Row:
    model = build(target, options.depth, options.width)
    contexts = (options.short, options.long)
    with torch.inference_mode():
        states = [filled(model, context, (options.rounds + 1) * TOKENS) for context in contexts]
        for state in states:
            decode(model, state)  # warm-up
        pairs = []
        for number in range(options.rounds):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            seconds = {index: decode(model, states[index]) for index in order}
            pairs.append((seconds[0], seconds[1]))
    ratios = sorted(long / short for short, long in pairs)
    return Row(
        target,
        *contexts,
        1e3 * median(short for short, _ in pairs),
        1e3 * median(long for _, long in pairs),
        median(ratios),
        ratios[0],
        ratios[-1],
        states[0].nbytes,
        states[1].nbytes,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", default=DEFAULT)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--short", type=int, default=1024)
    parser.add_argument("--long", type=int, default=65_536)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--limit", type=float, default=1.1, help="of the ratio long over short")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/context.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    kept = True
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        for target in options.targets:
            row = measured(target, options)
            kept &= row.ratio <= options.limit and row.short_bytes == row.long_bytes
            writer.writerow(astuple(row))
            file.flush()
            print(
                f"{target}: {row.short_ms:.3f} ms a token after {row.short:,}, {row.long_ms:.3f} after {row.long:,}; "
                f"ratio {row.ratio:.3f} ({row.lowest_ratio:.3f} to {row.highest_ratio:.3f}); "
                f"state {row.short_bytes:,} and {row.long_bytes:,} bytes",
                flush=True,
            )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
