"""Time per generated token: backbones of this library beside a Llama of Hugging Face of the same shape.

Greedy generation of `generate` on both sides, random weights, one thread; ours natively and by its plan of torch
operations. For each context all continue the same prompt; a round takes the median time from one token to the next.
Rounds alternate between them, so that all meet the same machine: reported are medians over the rounds, and the median
and range of the ratio in a round. The Llama has half as many blocks as the backbone has LIVs. Run

    python benchmarks/decoding.py [TARGET ...] [--contexts N ...] [--batches N ...] [--rounds N] [--out FOLDER]

where a target is a preset or a genome over the extended pool, repeated to the depth asked for.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from dataclasses import astuple, dataclass, fields
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.generation.streamers import BaseStreamer

from star import BackboneGenome, LanguageModel, OptionPool
from star.genome import PRESETS, Extension, preset
from star.liv.kernels import forced

TOKENS, WARM = 32, 4  # of a round: measured, and before
DEFAULT = ("transformer++", "striped-mamba", "deformer", "20.1.1.1.1 9.1.1.1.1 21.1.1.1.1 9.1.1.1.1")


@dataclass(frozen=True)
class Row:
    """Milliseconds a token, and the ratio theirs over ours of paired rounds; ours is native where it can be."""

    target: str
    batch: int
    context: int
    ours_ms: float
    plan_ms: float
    llama_ms: float
    ratio: float
    lowest_ratio: float
    highest_ratio: float


def build(target: str, options: argparse.Namespace) -> LanguageModel:
    if target in PRESETS:
        genome, pool = preset(target, options.depth)
    else:
        pool = OptionPool.full().with_extensions(*Extension)
        segments = target.split()
        genome = BackboneGenome.parse(" ".join((segments * options.depth)[: options.depth]))
    return LanguageModel.from_genome(genome, pool=pool, width=options.width, vocab_size=options.vocab, seed=0).eval()


def llama(options: argparse.Namespace) -> LlamaForCausalLM:
    """As many heads of 64, and the hidden size of a gated unit that we have."""
    heads = options.width // 64
    config = LlamaConfig(
        vocab_size=options.vocab,
        hidden_size=options.width,
        intermediate_size=-(-8 * options.width // 3 // 64) * 64,
        num_hidden_layers=options.depth // 2,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=1 << 17,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).eval()


class Clock(BaseStreamer):
    """Notes when each token of a generation comes."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is left to do."""

    @property
    def seconds(self) -> float:
        """Median time from one of the last TOKENS tokens to the next; what comes before is prompt and warm-up."""
        times = self.times[-TOKENS:]
        return median(later - earlier for earlier, later in pairwise(times))


def measured(
    target: str, model: LanguageModel, peer: LlamaForCausalLM, batch: int, context: int, options: argparse.Namespace
) -> Row:
    prompt = torch.randint(0, options.vocab, (batch, context), generator=torch.Generator().manual_seed(0))

    def ours() -> float:
        clock = Clock()
        for token in model.generate(prompt, max_new_tokens=TOKENS + WARM, temperature=0):
            clock.put(token)
        return clock.seconds

    def plan() -> float:
        clock = Clock()
        stream = model.generate(prompt, max_new_tokens=TOKENS + WARM, temperature=0)
        clock.put(next(stream))
        with forced("portable"):  # not the prompt
            for token in stream:
                clock.put(token)
        return clock.seconds

    def theirs() -> float:
        clock = Clock()
        peer.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=TOKENS + WARM,
            min_new_tokens=TOKENS + WARM,
            do_sample=False,
            pad_token_id=0,
            streamer=clock,
        )
        return clock.seconds

    generations, found = (ours, plan, theirs), []
    for number in range(options.rounds):
        order = generations if number % 2 == 0 else generations[::-1]
        seconds = {generation: generation() for generation in order}
        found.append([seconds[generation] for generation in generations])
    ratios = sorted(their / our for our, _, their in found)
    middle = (1e3 * median(seconds) for seconds in zip(*found, strict=True))
    return Row(target, batch, context, *middle, median(ratios), ratios[0], ratios[-1])


def markdown(rows: list[Row], options: argparse.Namespace) -> str:
    """The rows as a table."""
    lines = [
        f"Milliseconds a token, {options.depth} LIVs or {options.depth // 2} Llama blocks, width {options.width}, "
        f"vocabulary {options.vocab:,}, fp32, one thread, {options.rounds} rounds; torch {torch.__version__}, load "
        f"{os.getloadavg()[0]:.1f} at the end.",
        "",
        "| backbone | batch | context | ours | plan | HF Llama | ratio | range |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.target} | {row.batch} | {row.context:,} | {row.ours_ms:.2f} | {row.plan_ms:.2f} | "
        f"{row.llama_ms:.2f} | {row.ratio:.2f} | {row.lowest_ratio:.2f} to {row.highest_ratio:.2f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", default=DEFAULT)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--contexts", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    peer, rows = llama(options), []
    with (options.out / "decoding.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        for target in options.targets:
            model = build(target, options)
            for batch in options.batches:
                for context in options.contexts:
                    rows.append(measured(target, model, peer, batch, context, options))
                    writer.writerow(astuple(rows[-1]))
                    file.flush()
                    print(rows[-1], flush=True)
    (options.out / "decoding.md").write_text(markdown(rows, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
