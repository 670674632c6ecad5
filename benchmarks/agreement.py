"""How far the views of an operator are apart: a Markdown table of the largest errors against the parallel pass.

Every LIV class of the extended pool stands alone in a backbone (norm, LIV, residual); two more rows take random
backbones of four LIVs with all their sharing, and with residual links, paths and routers besides. The views, each with
outputs and gradients (of the inputs and of every weight, for a loss that weighs all outputs at random):

- written out: T(x) as a matrix, applied to what it acts on;
- chunked: from an empty state, in chunks of random sizes;
- stepwise: from an empty state, token by token;
- left-padded: two sequences of unequal length in one batch, in one pass and again from a state in chunks, against each
  of them alone.

Errors are absolute; the last two columns are the largest output and gradient that they are errors of. Run
``python benchmarks/agreement.py [--seeds N] [--width D]``; the exit status is 1 where an error is above 1e-9 in float64
or 1e-4 in float32, for numbers above 1 relative to the largest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from torch.nn import functional

from star.backbone import Backbone
from star.genome import BackboneGenome, Extension, OptionPool, random_genome
from star.genome.variation import unconnected
from star.liv import Call

LIMITS = {torch.float64: 1e-9, torch.float32: 1e-4}
LENGTHS = (1, 3, 19, 70)  # the second sequence of a pair is shorter by a random number of tokens
GAIN = 2.0
DEPTH = 4

#: Two sequences of unequal length, [1, ℓ, d] each; a view gives the outputs of both.
Pair = tuple[Tensor, Tensor]
View = Callable[[Backbone, Pair, Random], Pair]


@dataclass
class Errors:
    """The largest absolute error of outputs and of gradients."""

    output: float = 0.0
    gradient: float = 0.0

    def include(self, output: float, gradient: float) -> None:
        self.output, self.gradient = max(self.output, output), max(self.gradient, gradient)


def parallel(backbone: Backbone, pair: Pair, rng: Random) -> Pair:
    return backbone(pair[0]), backbone(pair[1])


def written_out(backbone: Backbone, pair: Pair, rng: Random) -> Pair:
    return backbone.materialize(pair[0])[0], backbone.materialize(pair[1])[0]


def chunked(backbone: Backbone, pair: Pair, rng: Random) -> Pair:
    return cached(backbone, pair[0], chunks(rng)), cached(backbone, pair[1], chunks(rng))


def stepwise(backbone: Backbone, pair: Pair, rng: Random) -> Pair:
    return cached(backbone, pair[0], ones()), cached(backbone, pair[1], ones())


def left_padded(backbone: Backbone, pair: Pair, rng: Random) -> Pair:
    x, mask, padding = padded(pair)
    return unpadded(backbone(x, mask=mask), padding)


def left_padded_chunked(backbone: Backbone, pair: Pair, rng: Random) -> Pair:
    x, mask, padding = padded(pair)
    return unpadded(cached(backbone, x, chunks(rng), mask), padding)


#: Columns of the table; a column shows the worst of its views.
VIEWS: dict[str, tuple[View, ...]] = {
    "written out": (written_out,),
    "chunked": (chunked,),
    "stepwise": (stepwise,),
    "left-padded": (left_padded, left_padded_chunked),
}


def padded(pair: Pair) -> tuple[Tensor, Tensor, int]:
    """Both sequences in one batch, its mask, and the padding of the second."""
    padding = pair[0].shape[1] - pair[1].shape[1]
    x = torch.cat([pair[0], functional.pad(pair[1], (0, 0, padding, 0))])
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    mask[1, :padding] = False
    return x, mask, padding


def unpadded(y: Tensor, padding: int) -> Pair:
    return y[:1], y[1:, padding:]


def ones() -> Iterator[int]:
    while True:
        yield 1


def chunks(rng: Random) -> Iterator[int]:
    while True:
        yield rng.randint(1, 23)


def cached(backbone: Backbone, x: Tensor, sizes: Iterator[int], mask: Tensor | None = None) -> Tensor:
    """x [B, ℓ, d] through a state, in chunks of these sizes."""
    length, start, outputs = x.shape[1], 0, []
    state = backbone.init_state(x.shape[0], length)
    while start < length:
        part = slice(start, min(start + next(sizes), length))
        outputs.append(backbone(x[:, part], state, None if mask is None else mask[:, part]))
        start = part.stop
    return torch.cat(outputs, 1)


def strong(backbone: Backbone) -> Backbone:
    """Twice the fresh weights before T and such output maps that every LIV adds as much as comes in: fresh LIVs are a
    small addition to the residual stream, and so would be their errors."""
    with torch.no_grad():
        for name, parameter in backbone.livs.named_parameters():
            if "featurizer" in name and name.endswith((".weight", ".taps")):
                parameter.mul_(GAIN)
        call, x = Call(), torch.randn(1, max(LENGTHS), backbone.width, dtype=next(backbone.parameters()).dtype)
        for norm, stage in zip(backbone.norms, backbone.stages, strict=True):
            inputs, total = norm(x), x
            for liv in (backbone.livs[index] for index in stage.livs):
                y = liv(inputs, call)
                factor = float(x.norm() / y.norm())
                liv.scale_output(factor)
                total = total + y * factor
            x = total
    return backbone


def largest(tensors: Sequence[Tensor]) -> float:
    """The largest magnitude; infinite where a number is none."""
    return max(float(tensor.abs().nan_to_num(nan=float("inf")).max()) for tensor in tensors)


def differentiated(
    view: View, backbone: Backbone, pair: Pair, weights: Pair, rng: Random
) -> tuple[list[Tensor], list[Tensor]]:
    """A view's outputs, and the gradients of their weighted sum with respect to the inputs and every parameter."""
    outputs = view(backbone, pair, rng)
    loss = (outputs[0] * weights[0]).sum() + (outputs[1] * weights[1]).sum()
    gradients = torch.autograd.grad(loss, [*pair, *backbone.parameters()], materialize_grads=True)
    return [output.detach() for output in outputs], list(gradients)


def measure(
    genome: BackboneGenome, pool: OptionPool, width: int, dtype: torch.dtype, seed: int
) -> tuple[dict[str, Errors], Errors]:
    """Errors of each column over all lengths, and the largest output and gradient."""
    errors, scale = {column: Errors() for column in VIEWS}, Errors()
    for length in LENGTHS:
        rng = Random(f"{seed} {genome} {length}")
        torch.manual_seed(rng.randrange(1 << 32))
        backbone = strong(Backbone(genome, pool, width=width, length=max(LENGTHS)).to(dtype))
        long, short = (torch.randn(1, n, width, dtype=dtype) for n in (length, rng.randint(1, length)))
        # As for a mean over positions: gradients of weights do not grow with the length.
        weights = (torch.randn_like(long) / long.shape[1] ** 0.5, torch.randn_like(short) / short.shape[1] ** 0.5)
        pair = (long.requires_grad_(), short.requires_grad_())
        outputs, gradients = differentiated(parallel, backbone, pair, weights, rng)
        scale.include(largest(outputs), largest(gradients))
        for column, views in VIEWS.items():
            for view in views:
                found = differentiated(view, backbone, pair, weights, rng)
                errors[column].include(
                    largest([a - b for a, b in zip(found[0], outputs, strict=True)]),
                    largest([a - b for a, b in zip(found[1], gradients, strict=True)]),
                )
    return errors, scale


def table(pool: OptionPool, width: int, dtype: torch.dtype, seeds: int) -> tuple[list[str], float, float]:
    """The lines of one table, the largest absolute error in it, and the largest that counts (relative above 1)."""
    rows = {f"{liv} {pool[liv].name}": [unconnected([liv])] * seeds for liv in pool.ids}
    rng = Random(0)
    for name, choices in (("with sharing", pool.with_extensions()), ("with everything", pool)):
        genomes = [random_genome(choices, DEPTH, rng) for _ in range(2 * seeds)]
        rows[f"random backbones of {DEPTH} {name}"] = genomes
    lines = [
        "| LIV | " + " | ".join(f"{column} y | ∂" for column in VIEWS) + " | largest y | ∂ |",
        "|---|" + "---|" * (2 * len(VIEWS) + 2),
    ]
    absolute = counting = 0.0
    for name, genomes in rows.items():
        cells = {column: Errors() for column in VIEWS}
        scale = Errors()
        for seed, genome in enumerate(genomes):
            errors, one_scale = measure(genome, pool, width, dtype, seed)
            scale.include(one_scale.output, one_scale.gradient)
            for column, error in errors.items():
                cells[column].include(error.output, error.gradient)
        numbers = [f"{value:.0e}" for error in cells.values() for value in (error.output, error.gradient)]
        lines.append(f"| {name} | " + " | ".join(numbers) + f" | {scale.output:.1f} | {scale.gradient:.1f} |")
        for error in cells.values():
            absolute = max(absolute, error.output, error.gradient)
            counting = max(counting, error.output / max(1, scale.output), error.gradient / max(1, scale.gradient))
    return lines, absolute, counting


def main() -> int:
    parser = argparse.ArgumentParser(description="Largest errors of every view of every LIV class, as Markdown tables.")
    parser.add_argument("--seeds", type=int, default=3, help="random models and inputs for each class and length")
    parser.add_argument("--width", type=int, default=32, help="channels; a multiple of 16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pool, kept = OptionPool.full().with_extensions(*Extension), True
    for dtype, limit in LIMITS.items():
        lines, absolute, counting = table(pool, options.width, dtype, options.seeds)
        kept &= counting <= limit
        print(
            f"\n**{str(dtype).removeprefix('torch.')}**, width {options.width}, {options.seeds} seeds, lengths up to "
            f"{max(LENGTHS)}: largest absolute error {absolute:.1e}, relative to numbers above 1 {counting:.1e} "
            f"(allowed: {limit:.0e}).\n"
        )
        print("\n".join(lines), flush=True)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
