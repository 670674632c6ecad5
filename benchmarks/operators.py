"""What operators take, forward and backward, beside their peers and what the machine can do.

``python benchmarks/operators.py [--only scan] [--rounds N] [--out FOLDER]`` writes ``operators.csv`` and
``operators.md``. All variants of an operator take turns of at least 50 ms on the same inputs, in one process with one
thread, so a busy machine slows all of them; ratios are formed round by round. Peers come with the extra ``bench``; one
that is not installed is left out and named on stderr. An operator is a row of ``OPERATORS`` in ``peers.py``. ``--device
cuda`` measures the rows of ``gpu.py`` instead and writes ``operators-cuda.csv`` and ``operators-cuda.md``.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from peers import OPERATORS, Function, Operator, Variant
from star.liv import kernels

SIZES = ((64, 256, 16), (256, 1024, 4), (768, 4096, 1))  # width, length, batch: 12,288 to 3,145,728 numbers a tensor
ROUNDS = 7
FEWEST_ROUNDS = 5
TURN = 0.05  # seconds that a variant's turn lasts at least


@dataclass(frozen=True)
class Result:
    """Milliseconds and ratios (how many times faster than the first variant): median, lowest, highest of all rounds.

    `extra`: as `extra_memory` has it; None where it cannot be known.
    """

    operator: str
    size: tuple[int, int, int]
    variant: str
    milliseconds: tuple[float, float, float]
    ratio: tuple[float, float, float]
    extra: float | None


def once(function: Function, inputs: Sequence[Any], weights: Tensor) -> tuple[Tensor, ...]:
    """Forward and backward; everything that comes out."""
    output = function(*inputs)
    return output, *torch.autograd.grad(output, [one for one in inputs if isinstance(one, Tensor)], weights)


def timed(function: Function, inputs: Sequence[Any], weights: Tensor) -> float:
    """Milliseconds of a call: the mean of as many as `TURN` holds, so that what ran before disturbs none of them."""
    start, calls, seconds = perf_counter(), 0, 0.0
    while seconds < TURN:
        once(function, inputs, weights)
        calls, seconds = calls + 1, perf_counter() - start
    return 1000 * seconds / calls


def extra_memory(operator: str, variant: str, size: tuple[int, int, int]) -> float | None:
    """MB held at the worst moment beside inputs and results, by the kernel's record of this process's highest resident
    memory (Linux). Call it in a fresh process: memory that was used before would hide some."""
    torch.set_num_threads(1)
    row = next(row for row in OPERATORS if row.name == operator)
    function = next(one.function for one in row.variants if one.name == variant)
    for one_size in ((*SIZES[0][:2], 1), size):  # the first loads code
        inputs, weights = row.drawn(one_size)
        try:
            Path("/proc/self/clear_refs").write_text("5")
            before = resident("VmRSS")
            results = once(function, inputs, weights)
            used = resident("VmHWM") - before
        except OSError:
            return None
    return max(0.0, (used - sum(tensor.numel() * tensor.element_size() for tensor in results)) / 1e6)


def resident(name: str) -> int:
    """Bytes of memory of this process: VmRSS now, VmHWM at most. Raises OSError elsewhere than on Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {name}")


Measure = Callable[[Operator, tuple[int, int, int], int], list[Result]]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    return median(values), min(values), max(values)


def results_of(
    operator: Operator,
    size: tuple[int, int, int],
    variants: Sequence[Variant],
    times: Sequence[Sequence[float]],
    extra: Sequence[float | None],
) -> list[Result]:
    """`times[round][variant]` in milliseconds, set against the first variant round by round."""
    return [
        Result(
            operator.name,
            size,
            variant.name,
            spread([row[place] for row in times]),
            spread([row[0] / row[place] for row in times]),
            extra[place],
        )
        for place, variant in enumerate(variants)
    ]


def measure(operator: Operator, size: tuple[int, int, int], rounds: int) -> list[Result]:
    torch.manual_seed(0)
    variants = [variant for variant in operator.variants if variant.installed]
    inputs, weights = operator.drawn(size)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as fresh:
        extra = [fresh.submit(extra_memory, operator.name, variant.name, size).result() for variant in variants]
    for variant in variants:
        once(variant.function, inputs, weights)
    times = [[timed(variant.function, inputs, weights) for variant in variants] for _ in range(rounds)]
    return results_of(operator, size, variants, times, extra)


def ceilings() -> str:
    """The fastest of several products of matrices and copies of memory."""
    a, b, n = torch.randn(1024, 1024), torch.randn(1024, 1024), 10
    c, source = torch.empty_like(a), torch.randn(1 << 25)
    target = torch.empty_like(source)

    def fastest(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(n):
            start = perf_counter()
            work()
            seconds.append(perf_counter() - start)
        return min(seconds)

    matmul = 2 * 1024**3 / fastest(lambda: torch.mm(a, b, out=c)) / 1e9
    copy = 2 * source.numel() * 4 / fastest(lambda: target.copy_(source)) / 1e9
    return f"Ceilings: matrix product {matmul:.0f} GFLOP/s, copy {copy:.1f} GB/s (read and written)."


def machine() -> str:
    vectors = torch.backends.cpu.get_cpu_capability()
    return f"One thread, {vectors}, torch {torch.__version__}, float32, forward and backward; {kernels.fingerprint()}."


def markdown(results: Sequence[Result], rounds: int, notes: Sequence[str]) -> str:
    lines = ["# Operators", "", *notes, ""]
    lines.append(
        f"Median, lowest and highest of {rounds} rounds; the ratio says how many times faster than the first."
        " Extra memory is what is held beside inputs and results."
    )
    for operator in dict.fromkeys(result.operator for result in results):
        lines += ["", f"## {operator}", "", "| width, length, batch | variant | ms | ratio | extra MB |"]
        lines.append("|---|---|---:|---:|---:|")
        for one in results:
            if one.operator == operator:
                extra = "–" if one.extra is None else f"{one.extra:.0f}"
                cells = (str(one.size)[1:-1], one.variant, _cell(one.milliseconds), _cell(one.ratio), extra)
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(values: tuple[float, float, float]) -> str:
    middle, low, high = (f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in values)
    return f"{middle} ({low} – {high})"


def write_csv(path: Path, results: Sequence[Result]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = ["operator", "width", "length", "batch", "variant"]
        figures = [f"{name}{end}" for name in ("ms", "ratio") for end in ("", "_lowest", "_highest")]
        writer.writerow([*names, *figures, "extra_mb"])
        for one in results:
            numbers = [f"{value:.4g}" for value in (*one.milliseconds, *one.ratio)]
            extra = "" if one.extra is None else f"{one.extra:.1f}"
            writer.writerow([one.operator, *one.size, one.variant, *numbers, extra])


def _on(device: str) -> tuple[Sequence[Operator], Sequence[tuple[int, int, int]], Measure, list[str], str]:
    """Operators, sizes, how they are measured, notes, and the name of the files."""
    if device == "cpu":
        return OPERATORS, SIZES, measure, [machine(), ceilings()], "operators"
    import gpu

    return gpu.OPERATORS, gpu.SIZES, gpu.measure, [gpu.machine(), gpu.ceilings()], "operators-cuda"


def main() -> int:
    parser = argparse.ArgumentParser(description="Operators beside their peers, forward and backward.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what to measure")
    parser.add_argument("--only", default="", help="operators whose name has this text")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"at least {FEWEST_ROUNDS}")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="where the tables go")
    options = parser.parse_args()
    if options.rounds < FEWEST_ROUNDS:
        parser.error(f"{options.rounds} rounds say too little; take at least {FEWEST_ROUNDS}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; leave --device out to measure on the CPU")
    torch.set_num_threads(1)
    rows, sizes, measured, notes, name = _on(options.device)
    print("\n".join(notes), flush=True)
    operators = [operator for operator in rows if options.only in operator.name]
    for variant in {variant for operator in operators for variant in operator.variants if not variant.installed}:
        print(f"{variant.name} is not installed (extra `bench`), so it is left out", file=sys.stderr)
    results = []
    for operator in operators:
        for size in sizes:
            for one in measured(operator, size, options.rounds):
                results.append(one)
                print(f"{one.operator} {one.size} {one.variant}: {_cell(one.milliseconds)} ms", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_csv(options.out / f"{name}.csv", results)
    (options.out / f"{name}.md").write_text(markdown(results, options.rounds, notes), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
