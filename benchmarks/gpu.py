"""Operators on a GPU: what `operators.py --device cuda` measures, forward and backward, in bfloat16.

Parameters, decays and shifts stay float32, as under autocast. Peers are fla (`flash-linear-attention`) and mamba-ssm,
where they are installed; what they compute has to agree with our own before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from operators import Result, once, results_of
from peers import Operator, Variant, our_scan, ours, scan_inputs
from star.liv import kernels
from star.liv.kernels.convolution import gated_short_convolution
from star.liv.kernels.resample import resample

SIZES = ((2048, 4096, 8), (768, 4096, 32))  # width, length, batch
TAPS, WINDOW = 3, 64
WARM_UP = 2  # rounds before the clock starts: kernels are compiled and memory is allocated
LARGEST_DIFFERENCE = 0.05  # of two variants, relative to the norm of a tensor; bfloat16 has 8 bits


def halved(inputs: Sequence[Tensor], exact: frozenset[int]) -> Sequence[Tensor]:
    """In bfloat16, those at the places `exact` apart."""
    return [one if place in exact else one.bfloat16() for place, one in enumerate(inputs)]


def half_scan_inputs(width: int, length: int, batch: int, states: int) -> Sequence[Tensor]:
    return halved(scan_inputs(width, length, batch, states), frozenset({2}))


def convolution_inputs(width: int, length: int, batch: int) -> Sequence[Tensor]:
    """x, B, C and K."""
    return halved([*torch.randn(3, batch, length, width).unbind(), torch.randn(width, TAPS)], frozenset())


def resampling_inputs(width: int, length: int, batch: int) -> Sequence[Tensor]:
    """Shifts over all of the window, whose shape the result has, and v with a window of zeros before it."""
    values = torch.nn.functional.pad(torch.randn(batch, length, width), (0, 0, WINDOW, 0))
    return halved([WINDOW * torch.rand(batch, length, width), values], frozenset({0}))


def mamba_scan(x: Tensor, delta: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Takes time last, so some of its time goes into transposing."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    x, delta, b, c = (tensor.transpose(1, 2) for tensor in (x, delta, b, c))
    return selective_scan_fn(x, delta, decay, b, c).transpose(1, 2)


def fla_convolution(x: Tensor, gate_in: Tensor, gate_out: Tensor, weight: Tensor) -> Tensor:
    from fla.modules.convolution import causal_conv1d

    return gate_out * causal_conv1d(gate_in * x, weight)[0]


def our_resampling(shift: Tensor, values: Tensor) -> Tensor:
    return resample(values, shift)


def _with_peer(function: Callable[..., Tensor], *peers: Variant) -> tuple[Variant, ...]:
    return (*peers, ours("portable", function), ours("triton", function))


OPERATORS = (
    *(
        Operator(
            f"selective scan, N={states}",
            partial(half_scan_inputs, states=states),
            _with_peer(our_scan, Variant("mamba-ssm", mamba_scan, needs="mamba_ssm")),
        )
        for states in (16, 2)
    ),
    Operator(
        "gated short convolution",
        convolution_inputs,
        _with_peer(gated_short_convolution, Variant("fla", fla_convolution, needs="fla")),
    ),
    Operator(f"resampling, W={WINDOW}", resampling_inputs, _with_peer(our_resampling)),
)


def timed(variant: Variant, inputs: Sequence[Tensor], weights: Tensor) -> float:
    """Milliseconds on the GPU's own clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    once(variant.function, inputs, weights)
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def extra_memory(variant: Variant, inputs: Sequence[Tensor], weights: Tensor) -> float:
    """MB held at the worst moment beside inputs and results."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = once(variant.function, inputs, weights)
    used = torch.cuda.max_memory_allocated() - before
    return max(0.0, (used - sum(one.numel() * one.element_size() for one in results)) / 1e6)


def disagreement(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest distance of two tensors, relative to the norm of the second."""
    pairs = [(one.detach().float(), other.detach().float()) for one, other in zip(found, expected, strict=True)]
    return max(float((one - other).norm() / other.norm().clamp(min=1e-6)) for one, other in pairs)


def measure(operator: Operator, size: tuple[int, int, int], rounds: int, device: str = "cuda") -> list[Result]:
    """As on a CPU: all variants take turns on the same inputs. Raises `SystemExit` where two of them disagree."""
    torch.manual_seed(0)
    variants = [variant for variant in operator.variants if variant.installed]
    with torch.device(device):
        inputs, weights = operator.drawn(size)
    weighted = [weights.to(variant.function(*inputs).dtype) for variant in variants]
    expected = once(variants[0].function, inputs, weighted[0])
    for variant, own in zip(variants[1:], weighted[1:], strict=True):
        if (apart := disagreement(once(variant.function, inputs, own), expected)) > LARGEST_DIFFERENCE:
            raise SystemExit(f"{operator.name}: {variant.name} and {variants[0].name} differ by {apart:.1%}")
    del expected
    turns = list(zip(variants, weighted, strict=True))
    extra = [extra_memory(variant, inputs, own) for variant, own in turns]
    times = [[timed(variant, inputs, own) for variant, own in turns] for _ in range(WARM_UP + rounds)][WARM_UP:]
    return results_of(operator, size, variants, times, extra)


def ceilings() -> str:
    """The fastest of several products of matrices and copies of memory."""
    a, b = torch.randn(2, 8192, 8192, device="cuda", dtype=torch.bfloat16).unbind()
    source = torch.empty(1 << 29, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)

    def fastest(work: Callable[[], object]) -> float:
        """Milliseconds."""
        found = []
        for _ in range(10):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            torch.cuda.synchronize()
            found.append(start.elapsed_time(end))
        return min(found)

    matmul = 2 * 8192**3 / fastest(lambda: a @ b) / 1e9
    copy = 2 * source.numel() * source.element_size() / fastest(lambda: target.copy_(source)) / 1e6
    return f"Ceilings: matrix product {matmul:.0f} TFLOP/s in bfloat16, copy {copy:.0f} GB/s (read and written)."


def machine() -> str:
    name = torch.cuda.get_device_name()
    return f"{name}, torch {torch.__version__}, bfloat16, forward and backward; {kernels.fingerprint('cuda')}."
