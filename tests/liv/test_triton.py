"""The Triton kernels are the float64 reference, outputs and gradients, on usual and extreme inputs: on a GPU where
there is one, and everywhere in Triton's interpreter. Each in a process of its own, since Triton decides when it is
imported whether it interprets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from star.errors import StarError
from star.liv import kernels
from star.liv.kernels import Implementation, forced, triton
from star.liv.kernels.convolution import (
    GATED_SHORT_CONVOLUTION,
    SHORT_CONVOLUTION,
    gated_short_convolution,
    short_convolution,
)
from star.liv.kernels.resample import RESAMPLE, resample
from star.liv.kernels.selective_scan import SELECTIVE_SCAN, selective_scan

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
INSTALLED = pytest.mark.skipif(triton.version() is None, reason="Triton is not installed")
BF16 = torch.bfloat16
HALF = 2.0**-7  # a unit in the last of 8 bits: the interpreter truncates to bf16 where GPUs round


def seeded(seed: int) -> torch.Generator:
    """On the device of this process."""
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def scan_inputs(batch: int, length: int, channels: int, states: int, step: float = 1.0) -> list[Tensor]:
    """x, Δ, A, B, C and h."""
    generator = seeded(length + states)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x, delta = normal(batch, length, channels), step * normal(batch, length, channels).abs()
    decay = -3 * normal(channels, states).abs()
    b, c, h = normal(batch, length, states), normal(batch, length, states), normal(batch, states, channels)
    return [x / max(1.0, step), delta, decay, b, c / max(1.0, step) ** 0.5, h]


def outputs_and_gradients(operator: Callable, inputs: Sequence[Tensor], *others: Tensor | None) -> list[Tensor]:
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    outputs = operator(*inputs, *others)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    generator = seeded(1)
    loss = sum((one.float() * torch.randn(one.shape, generator=generator)).sum() for one in outputs)
    return [*(one.detach() for one in outputs), *torch.autograd.grad(loss, inputs)]


def assert_is_the_reference(
    operator: Callable, inputs: Sequence[Tensor], *others: Tensor | None, error: float = 3e-6
) -> None:
    """Every tensor within `error` of the reference of the same inputs in float32, relative to its largest number."""
    with forced("triton"):
        found = outputs_and_gradients(operator, inputs, *others)
    with forced("reference"):
        expected = outputs_and_gradients(operator, [tensor.float() for tensor in inputs], *others)
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.shape == other.shape
        assert bool(one.isfinite().all()), f"tensor {place} is not finite"
        distance = float((one.float() - other).abs().max()) / max(1.0, float(other.abs().max()))
        assert distance <= error, f"tensor {place}: error {distance:.1e}"
    gradients = found[len(found) - len(inputs) :]
    assert [one.dtype for one in gradients] == [tensor.dtype for tensor in inputs]


def scans_of_every_shape() -> None:
    """Single elements; lengths just over a tile and a chunk; sizes that are no power of two; more than one block."""
    from star.liv.kernels.triton.selective_scan import CHUNK

    for shape in [(1, 1, 1, 1), (2, 17, 3, 5), (1, CHUNK + 1, 3, 11), (1, 9, 33, 2)]:
        keep = torch.arange(shape[1]).unsqueeze(0) % 7 != 3
        assert_is_the_reference(selective_scan, scan_inputs(*shape), keep if shape[1] == 17 else None)


def scans_forget_for_each_sequence() -> None:
    keep = torch.rand(2, 20, generator=seeded(0)) > 0.3
    assert_is_the_reference(selective_scan, scan_inputs(2, 20, 4, 4), keep)
    assert_is_the_reference(selective_scan, scan_inputs(2, 20, 4, 4), torch.zeros(1, 20, dtype=torch.bool))


def scans_take_gates_and_raw_steps() -> None:
    """With all of them, in full and in half precision; the gradient of each has its dtype."""
    x, delta, *others = scan_inputs(2, 18, 4, 4)

    def gated(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        return selective_scan(*inputs[:6], skip=inputs[6], gate=inputs[7], raw=True)

    inputs = [x, delta - 1, *others, x[0, 0].clone(), x.roll(1)]
    assert_is_the_reference(gated, inputs)
    assert_is_the_reference(gated, [x.to(BF16), *inputs[1:7], x.roll(1).to(BF16)], error=HALF)


def scans_take_extreme_steps() -> None:
    """Decays that are exactly 1, and decays that underflow to exactly 0; never NaN."""
    for step in (0.0, 1e-38, 30.0, 1e4, 1e30):
        inputs = scan_inputs(1, 18, 4, 4, step)
        with forced("triton"):
            found = outputs_and_gradients(selective_scan, inputs)
        with forced("reference"):
            expected = outputs_and_gradients(selective_scan, inputs)
        for one, other in zip(found, expected, strict=True):
            assert bool(one.isfinite().all())
            torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-6 * max(1.0, float(other.abs().max())))


def scans_read_half_precision_and_views() -> None:
    x, delta, decay, b, c, h = scan_inputs(2, 18, 4, 4)
    inputs = [x.to(BF16), delta, decay, torch.cat([c, b], -1).to(BF16)[..., 4:], c.to(BF16), h]
    assert_is_the_reference(selective_scan, inputs, error=HALF)
    with forced("triton"):
        y, last = selective_scan(*inputs)
    with forced("reference"):
        expected, _ = selective_scan(*(tensor.float() for tensor in inputs))
    assert y.dtype is last.dtype is torch.float32
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    views = [
        torch.stack([x, x], -1)[..., 0],
        delta.transpose(0, 1).contiguous().transpose(0, 1),
        decay.t().contiguous().t(),
        b[:1].expand(2, -1, -1),
        c,
        h.mT.contiguous().mT,
    ]
    assert_is_the_reference(selective_scan, views)


def scans_pass_nan_on() -> None:
    """A diverged model must look like one, and not beyond its channel."""
    inputs = scan_inputs(1, 20, 3, 2)
    inputs[1][0, 5, 1] = float("nan")
    with forced("triton"):
        y, _ = selective_scan(*inputs)
    assert bool(y[0, 5:, 1].isnan().all())
    assert bool(y[0, :, [0, 2]].isfinite().all())


def convolutions_of_every_shape() -> None:
    """One token, fewer tokens than taps, lengths around a tile, one tap, weights of their own or shared by channels."""
    generator = seeded(0)
    for batch, length, channels, taps, shared in [
        (1, 1, 1, 3, False),
        (2, 2, 5, 4, True),
        (2, 33, 70, 3, False),
        (1, 64, 3, 1, False),
        (1, 70, 3, 3, True),
    ]:
        x, gate_in, gate_out = torch.randn(3, batch, length, channels, generator=generator).unbind()
        weight = torch.randn(1 if shared else channels, taps, generator=generator)
        assert_is_the_reference(short_convolution, [x, weight])
        assert_is_the_reference(gated_short_convolution, [x, gate_in, gate_out, weight])
    half = [tensor.to(BF16) for tensor in (x, gate_in, gate_out, weight)]
    assert_is_the_reference(gated_short_convolution, half, error=HALF)
    with forced("triton"):  # as the portable version: the widest precision
        mixed = short_convolution(x.to(BF16), weight)
    assert mixed.dtype is torch.float32
    views = [torch.stack([x, x], -1)[..., 0], gate_in.transpose(0, 1).contiguous().transpose(0, 1), gate_out, weight]
    assert_is_the_reference(gated_short_convolution, views)


def resampling_of_every_shift() -> None:
    """Zero shifts, shifts at the window, whole numbers; single tokens, lengths over a tile, one token of a window."""
    generator = seeded(0)
    for batch, length, channels, window in [(1, 1, 1, 1), (2, 35, 5, 6), (1, 16, 66, 20), (2, 3, 4, 9)]:
        values = torch.randn(batch, window + length, channels, generator=generator)
        shift = window * torch.rand(batch, length, channels, generator=generator)
        for shifts in (shift, torch.zeros_like(shift), torch.full_like(shift, window), shift.round()):
            assert_is_the_reference(resample, [values, shifts])
        assert_is_the_reference(resample, [values.to(BF16), shift], error=HALF)
    shift[0, 0, 0] = float("nan")
    with forced("triton"):
        y = resample(values, shift)
    assert bool(y[0, 0, 0].isnan())
    assert int(y.isnan().sum()) == 1


def the_choice_follows_the_inputs() -> None:
    inputs = scan_inputs(1, 4, 3, 2)
    many_states = scan_inputs(1, 4, 3, 65)
    weight, plain = torch.ones(3, 3), (None, None, None, False)
    with forced("triton"):
        assert SELECTIVE_SCAN.chosen(*inputs, *plain) is Implementation.TRITON
        assert SELECTIVE_SCAN.chosen(*(tensor.double() for tensor in inputs), *plain) is Implementation.PORTABLE
        assert SELECTIVE_SCAN.chosen(*many_states, *plain) is Implementation.PORTABLE
        assert SHORT_CONVOLUTION.chosen(inputs[0], weight, None) is Implementation.TRITON
        assert GATED_SHORT_CONVOLUTION.chosen(inputs[0], *inputs[:1] * 2, weight) is Implementation.TRITON
        assert RESAMPLE.chosen(torch.ones(1, 9, 3), torch.ones(1, 4, 3)) is Implementation.TRITON
        assert RESAMPLE.chosen(torch.ones(1, 999, 3), torch.ones(1, 4, 3)) is Implementation.PORTABLE
        assert kernels.ATTENTION.chosen(*torch.ones(3, 1, 2, 80, 16)) is Implementation.PORTABLE
        found = kernels.choice(SELECTIVE_SCAN)
        assert (found.implementation, found.reason) == (Implementation.TRITON, "in Triton's interpreter")
    assert (
        SELECTIVE_SCAN.chosen(*inputs, None, None, None, False) is not Implementation.TRITON
    )  # the interpreter is for who asks for it


#: By operator; one process checks those of one, for starting it takes as long as most of them.
CLAIMS: dict[str, tuple[Callable[[], None], ...]] = {
    "selective scan": (
        scans_of_every_shape,
        scans_forget_for_each_sequence,
        scans_take_gates_and_raw_steps,
        scans_take_extreme_steps,
        scans_read_half_precision_and_views,
        scans_pass_nan_on,
    ),
    "short convolutions": (convolutions_of_every_shape,),
    "resampling": (resampling_of_every_shift,),
}


@INSTALLED
@pytest.mark.parametrize("operator", [*CLAIMS, "choice"])
def test_in_the_interpreter(operator: str) -> None:
    check(operator, "cpu", interpret=True)


@INSTALLED
@GPU
@pytest.mark.parametrize("operator", CLAIMS)
def test_on_a_gpu(operator: str) -> None:
    check(operator, "cuda", interpret=False)


def check(operator: str, device: str, interpret: bool) -> None:
    """In a process of its own."""
    environment = os.environ | {"TRITON_INTERPRET": str(int(interpret)), "OMP_NUM_THREADS": "1"}
    environment.pop("STAR_KERNELS", None)
    command = [sys.executable, str(Path(__file__)), operator, device]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


#: Operator, function and the numbers that are built into it; small ones, since compiling takes a second or more.
BUILDS: list[tuple[str, str, dict[str, int | bool]]] = [
    ("selective_scan", "_forward", {"KEEP": True, "TRAINING": True, "CHUNK": 64, "T": 4, "N": 2, "D": 32}),
    ("selective_scan", "_backward", {"KEEP": True, "CHUNK": 64, "T": 2, "N": 2, "D": 32}),
    ("short_convolution", "_forward", {"GATED": True, "TAPS": 3, "T": 8, "D": 32}),
    ("short_convolution", "_backward", {"GATED": True, "TAPS": 3, "T": 8, "D": 32}),
    ("resample", "_forward", {"T": 8, "D": 32}),
    ("resample", "_shift_backward", {"T": 8, "D": 32}),
    ("resample", "_values_backward", {"T": 8, "D": 32}),
]
NUMBERS = ("length", "channels", "states", "lead", "blocks", "chunks", "parts", "batches")


@INSTALLED
def test_every_kernel_compiles_for_a_gpu() -> None:
    """Up to machine code, which needs no GPU: the interpreter lets pass what the compiler refuses."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    command = [sys.executable, str(Path(__file__)), "compile", "cpu"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def compile_all() -> None:
    from triton import compile as compiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    for module, name, constants in BUILDS:
        kernel = triton.function(module, name)

        def kind(argument: str, constants: dict[str, int | bool] = constants) -> str:
            if argument in constants:
                return "constexpr"
            size = argument in NUMBERS or argument.endswith(("_batch", "_time", "_channel", "_tap"))
            return "i32" if size else "*fp32"

        signature = {argument: kind(argument) for argument in kernel.arg_names}
        binary = compiled(
            ASTSource(kernel, signature, constexprs=constants),
            target=GPUTarget("cuda", 90, 32),
            options={"num_warps": 2},
        )
        assert binary.asm["cubin"]


def test_forced_triton_without_interpreter_is_refused_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with forced("triton"), pytest.raises(StarError, match="the triton kernels are forced, but cannot be used: "):
        selective_scan(*scan_inputs(1, 4, 3, 2))
    with forced("triton"):
        assert kernels.choice(SELECTIVE_SCAN).problem is not None
        assert kernels.choice(kernels.ATTENTION).reason == "has no triton version"


def test_without_triton_everything_runs_and_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "version", lambda: None)
    found = {one.operator: one for one in kernels.choices("cuda")}
    assert {one.implementation for one in found.values()} == {Implementation.PORTABLE}
    assert found["selective scan"].problem == "Triton is not installed; it comes with the extra `gpu`"
    y, _ = selective_scan(*scan_inputs(1, 4, 3, 2))
    assert bool(y.isfinite().all())


def test_triton_is_chosen_on_gpus_and_named_in_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STAR_KERNELS", raising=False)
    monkeypatch.setattr(triton, "version", lambda: "3.6.0")
    found = {one.operator: one for one in kernels.choices("cuda:0")}
    for operator in ("selective scan", "short convolution", "gated short convolution", "resampling"):
        assert (found[operator].implementation, found[operator].problem) == (Implementation.TRITON, None)
    assert found["softmax attention"].implementation is Implementation.PORTABLE
    assert "selective scan triton-3.6.0" in kernels.fingerprint("cuda:0")
    assert "triton" not in kernels.fingerprint("cpu")


def test_importing_the_kernels_imports_no_triton() -> None:
    code = "import sys, star.liv.kernels; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


if __name__ == "__main__":
    torch.set_default_device(sys.argv[2])
    others = {"compile": (compile_all,), "choice": (the_choice_follows_the_inputs,)}
    for claim in (CLAIMS | others)[sys.argv[1]]:
        claim()
