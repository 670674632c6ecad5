"""What top-1 routing saves while decoding: time a token with the favourite path alone over time with all paths.

One model for each genome, and two states with the same past; rounds of single tokens alternate between both ways of
routing on one thread. Run

    python benchmarks/routing.py [GENOME ...] [--width D] [--context N] [--rounds N] [--out FILE]

where a genome is over the extended pool with all extensions; default: four memoryless paths, and paths of four kinds.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path
from statistics import median

import torch

from star import LanguageModel, OptionPool
from star.backbone import State
from star.genome import Extension

VOCAB = 257
TOKENS = 64  # a round
DEFAULT = (
    "11111001 91111013 92121011 93131011 94141011",
    "11111013 51111011 71111011 91111011",
)


def decode(model: LanguageModel, state: State, top1: bool) -> float:
    """Seconds a token over a round of greedy tokens."""
    model.use_top1(top1)
    token = torch.zeros(1, 1, dtype=torch.long)
    start = time.perf_counter()
    for _ in range(TOKENS):
        token = model(token, state)[:, -1].argmax(-1, keepdim=True)
    return (time.perf_counter() - start) / TOKENS


def measured(genome: str, options: argparse.Namespace) -> tuple[str, float, float, float, float, float]:
    """Genome, milliseconds with all paths and with one, and median, least and greatest ratio within a round."""
    pool = OptionPool.full().with_extensions(*Extension)
    model = LanguageModel.from_genome(genome, pool=pool, width=options.width, vocab_size=VOCAB, seed=0).eval()
    prompt = torch.randint(0, VOCAB, (1, options.context), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        states = [model.init_state(1, options.context + (options.rounds + 1) * TOKENS) for _ in range(2)]
        for top1, state in enumerate(states):
            model.hidden(prompt, state)
            decode(model, state, bool(top1))  # warm-up
        pairs = [(decode(model, states[0], False), decode(model, states[1], True)) for _ in range(options.rounds)]
    ratios = sorted(one / all_ for all_, one in pairs)
    times = [1e3 * median(column) for column in zip(*pairs, strict=True)]
    return genome, times[0], times[1], median(ratios), ratios[0], ratios[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("genomes", nargs="*", default=DEFAULT)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/routing.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["genome", "all_paths_ms", "top1_ms", "ratio", "lowest_ratio", "highest_ratio"])
        for genome in options.genomes:
            row = measured(genome, options)
            writer.writerow(row)
            file.flush()
            print(
                f"{row[0]}: {row[1]:.3f} ms a token with all paths, {row[2]:.3f} with top-1; "
                f"ratio {row[3]:.3f} ({row[4]:.3f} to {row[5]:.3f})",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
