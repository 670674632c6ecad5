"""Every row of the table of operators is its float64 reference in every implementation: outputs and gradients, on
random and extreme inputs, in float32 and float64."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_marks import NEEDS_COMPILER, implementations
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from star.liv.kernels import KERNELS, Implementation, Kernel, forced
from star.liv.kernels.attention import ATTENTION, HEAD_SIZES
from star.liv.kernels.convolution import GATED_SHORT_CONVOLUTION, SHORT_CONVOLUTION
from star.liv.kernels.cross_entropy import HEAD_CROSS_ENTROPY
from star.liv.kernels.decoding import DECODING
from star.liv.kernels.gated_mlp import GATED_MLP
from star.liv.kernels.gated_unit import GATED_UNIT
from star.liv.kernels.linear_attention import LINEAR_ATTENTION
from star.liv.kernels.liquid_scan import LIQUID_SCAN
from star.liv.kernels.long_convolution import LONG_CONVOLUTION
from star.liv.kernels.multi_head_attention import MULTI_HEAD_ATTENTION
from star.liv.kernels.resample import RESAMPLE
from star.liv.kernels.rms_norm import RMS_NORM
from star.liv.kernels.rotary import ROTARY
from star.liv.kernels.selective_scan import SELECTIVE_SCAN
from star.liv.kernels.state_space import S4D_KERNEL

SINGLE, DOUBLE = torch.float32, torch.float64
ERROR = {SINGLE: 1e-5, DOUBLE: 1e-11}


@dataclass(frozen=True)
class Draw:
    """Sizes, and random numbers for them. `variant` picks among an operator's forms."""

    batch: int
    length: int
    channels: int
    modes: int
    variant: int
    dtype: torch.dtype
    seed: int

    def normal(self, *shape: int, imaginary: bool = False) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + zlib.crc32(repr(shape).encode()))
        dtype = torch.complex128 if imaginary else torch.float64
        number = torch.randn(shape, dtype=dtype, generator=generator)
        return number.to(self.dtype.to_complex() if imaginary else self.dtype)

    @property
    def sequence(self) -> tuple[int, int, int]:
        return self.batch, self.length, self.channels

    @property
    def keep(self) -> Tensor | None:
        """None, one row for the batch, or one for each sequence."""
        rows = (0, 1, self.batch)[self.variant % 3]
        return self.normal(rows, self.length) > -1 if rows else None


def tokens(draw: Draw, count: int) -> list[Tensor]:
    return [draw.normal(count, *draw.sequence)[i] for i in range(count)]


def attention(draw: Draw) -> Sequence[Any]:
    size, groups = HEAD_SIZES[draw.variant % 3], 1 + draw.variant % 2
    shapes = [(draw.batch, draw.length, heads, size) for heads in (2 * groups, 2, 2)]
    q, k, v = ((1 + n) * draw.normal(*shape).roll(n).transpose(1, 2) for n, shape in enumerate(shapes))
    return q, k, v, (None, 0, 1000)[draw.seed % 3]


def linear_attention(draw: Draw) -> Sequence[Any]:
    """Keys and values of sizes that are whole registers, alike or not, and of any size."""
    sizes = ((16, 32), (64, 64), (48, 16), (32, 112), (16, draw.channels), (draw.modes, draw.channels))[draw.variant]
    q, k = draw.normal(2, draw.batch, draw.length, 2, sizes[0]).transpose(2, 3).unbind()
    return q, k, draw.normal(draw.batch, 2, draw.length, sizes[1])


def selective(draw: Draw) -> Sequence[Any]:
    x, delta = tokens(draw, 2)
    decay = -3 * draw.normal(draw.channels, draw.modes).abs()
    b, c = draw.normal(2, draw.batch, draw.length, draw.modes).unbind()
    raw, gated = draw.variant % 2 == 1, draw.variant >= 2
    skip, gate = (draw.normal(draw.channels), draw.normal(*draw.sequence)) if gated else (None, None)
    state = draw.normal(draw.batch, draw.modes, draw.channels)
    return x, delta if raw else delta.abs(), decay, b, c, state, _float(draw.keep, draw), skip, gate, raw


def _float(keep: Tensor | None, draw: Draw) -> Tensor | None:
    return None if keep is None else keep.to(draw.dtype)


def liquid(draw: Draw) -> Sequence[Any]:
    """Real or complex modes; |Ā + B̄ u| < 1, as the LIV keeps it."""
    paired = draw.variant % 2 == 1
    numbers = draw.normal(3, draw.channels, draw.modes, imaginary=paired)
    transition, drive = (0.5 * number / (1 + number.abs()) for number in numbers[:2])
    state = draw.normal(draw.batch, draw.channels, draw.modes, imaginary=paired)
    return draw.normal(*draw.sequence).tanh(), transition, drive, numbers[2], state, draw.keep


def short(draw: Draw) -> Sequence[Any]:
    taps = draw.normal(1 if draw.variant % 3 == 2 else draw.channels, draw.modes)
    tail = (None, draw.normal(draw.batch, max(0, draw.modes - 1 - draw.variant % 2), draw.channels))[draw.variant % 2]
    return draw.normal(*draw.sequence), taps, tail


def gated(draw: Draw) -> Sequence[Any]:
    return *tokens(draw, 3), draw.normal(draw.channels, draw.modes)


def long(draw: Draw) -> Sequence[Any]:
    lags = min(draw.length, (draw.length, draw.modes)[draw.variant % 2])
    return draw.normal(*draw.sequence), draw.normal(1 if draw.variant % 3 == 2 else draw.channels, lags)


def state_space(draw: Draw) -> Sequence[Any]:
    paired, leading = draw.variant % 2 == 1, (draw.batch,) * (draw.variant % 3)
    exponent = -0.1 * draw.normal(draw.channels, draw.modes).double().abs()
    if paired:
        exponent = torch.complex(exponent, draw.normal(draw.modes, draw.channels).double().t())
    return exponent, draw.normal(*leading, draw.channels, draw.modes, imaginary=paired), draw.length


def resampling(draw: Draw) -> Sequence[Any]:
    """Shifts from 0 to all of the past that there is, both ends included."""
    lead = draw.modes
    shift = (lead * draw.normal(*draw.sequence).abs()).clamp(max=lead)
    shift[:, ::3] = shift[:, ::3].round()
    return draw.normal(draw.batch, lead + draw.length, draw.channels), shift


def rotary(draw: Draw) -> Sequence[Any]:
    return draw.normal(draw.batch, draw.length, draw.channels, 2 * draw.modes), 100 * draw.variant


def product(draw: Draw) -> Sequence[Any]:
    return tokens(draw, 2)


def streamed(draw: Draw, x: Tensor) -> Sequence[Any]:
    """Tokens, their norm, or the norm of them and an update."""
    norm = draw.normal(x.shape[-1]) if draw.seed % 3 else None
    return x, draw.normal(*x.shape).roll(1, 0) if draw.seed % 3 == 2 else None, norm, 1e-5


def maps(draw: Draw) -> Sequence[Any]:
    """More tokens than a block has, and fewer."""
    hidden, factor = 3 * draw.modes, draw.channels**-0.5
    x = draw.normal(*draw.sequence).repeat(5 if draw.variant % 2 else 1, 1, 1)
    gate, up = factor * draw.normal(2, hidden, draw.channels)
    return *streamed(draw, x), gate, up, draw.normal(1 + draw.variant, hidden)


def heads(draw: Draw) -> Sequence[Any]:
    """Sequences enough for C++, of channels that are whole registers, or not."""
    size, kv_heads = HEAD_SIZES[draw.variant % 3], 2 - draw.variant // 3
    width = draw.channels if draw.seed % 4 == 2 else 16 * (1 + draw.channels % 4)
    x = draw.normal(7 + draw.batch, draw.length, width)
    q, k, v = (
        width**-0.5 * draw.normal(3 + n, count * size, width)[-1] for n, count in enumerate((2, kv_heads, kv_heads))
    )
    out = draw.normal(16 * draw.batch, 2 * size) / size
    return *streamed(draw, x), q, k, v, out, size, (None, 0, 1000)[draw.seed % 3]


def norm(draw: Draw) -> Sequence[Any]:
    x, update = tokens(draw, 2)
    return x, update if draw.variant % 2 else None, draw.normal(draw.channels), 1e-5


def losses(draw: Draw) -> Sequence[Any]:
    """Vocabularies of fewer and of more tokens than a register has."""
    x, vocab = draw.normal(*draw.sequence).flatten(0, 1), draw.modes * (1 + 5 * draw.variant)
    generator = torch.Generator().manual_seed(draw.seed)
    targets = torch.randint(0, vocab, (x.shape[0],), generator=generator)
    return x, draw.normal(vocab, draw.channels), targets, draw.dtype


INPUTS: dict[str, Callable[[Draw], Sequence[Any]]] = {
    ATTENTION.name: attention,
    MULTI_HEAD_ATTENTION.name: heads,
    LINEAR_ATTENTION.name: linear_attention,
    ROTARY.name: rotary,
    SELECTIVE_SCAN.name: selective,
    LIQUID_SCAN.name: liquid,
    SHORT_CONVOLUTION.name: short,
    GATED_SHORT_CONVOLUTION.name: gated,
    LONG_CONVOLUTION.name: long,
    S4D_KERNEL.name: state_space,
    RESAMPLE.name: resampling,
    GATED_UNIT.name: product,
    GATED_MLP.name: maps,
    RMS_NORM.name: norm,
    HEAD_CROSS_ENTROPY.name: losses,
}
#: Decoding is a whole backbone, and tested with backbones.
OPERATORS = [kernel for kernel in KERNELS if kernel is not DECODING]

#: Kernels that hand on the stream beside what they make of it, and those whose products are PyTorch's.
OF_STREAMS = (RMS_NORM, GATED_MLP, MULTI_HEAD_ATTENTION)
WITH_PRODUCTS = (GATED_MLP, HEAD_CROSS_ENTROPY)

rows = pytest.mark.parametrize("kernel", OPERATORS, ids=lambda kernel: kernel.name)


def differentiable(one: Any) -> bool:
    return isinstance(one, Tensor) and (one.is_floating_point() or one.is_complex())


def main_output(kernel: Kernel, outputs: Any) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs
    found: Tensor = outputs[-1 if kernel in OF_STREAMS else 0]
    return found


def outputs_and_gradients(kernel: Kernel, implementation: Implementation, inputs: Sequence[Any]) -> list[Tensor]:
    """Outputs, and the gradients of their sum with random weights; those of numbers alone, not of masks."""
    inputs = [one.detach() if isinstance(one, Tensor) else one for one in inputs]
    masks = [6] if kernel is SELECTIVE_SCAN else []  # `keep`, a mask in numbers
    leaves = [one.requires_grad_() for place, one in enumerate(inputs) if differentiable(one) and place not in masks]
    with forced(implementation):
        outputs = kernel(*inputs)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(output.shape, dtype=output.dtype, generator=generator) for output in outputs]
    gradients = torch.autograd.grad(outputs, leaves, weights, allow_unused=True, materialize_grads=True)
    return [*(output.detach() for output in outputs), *gradients]


def assert_is_the_reference(
    kernel: Kernel, implementation: Implementation, inputs: Sequence[Any], error: float
) -> None:
    """Every tensor of the reference's shape and dtype, and within `error` of it, relative to its largest number, or to
    1 if that is smaller: a gradient that is 0 is found with the rounding of what cancels."""
    found = outputs_and_gradients(kernel, implementation, inputs)
    expected = outputs_and_gradients(kernel, Implementation.REFERENCE, inputs)
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        if one.numel():
            assert bool(one.isfinite().all()), f"tensor {place} is not finite"
            distance = float((one - other).abs().max()) / max(1.0, float(other.abs().max()))
            assert distance <= error, f"tensor {place}: error {distance:.1e}"


def test_no_row_is_left_out() -> None:
    assert [kernel.name for kernel in OPERATORS] == list(INPUTS)


@implementations
@rows
@settings(max_examples=40, deadline=None)
@given(
    draw=st.builds(
        Draw,
        batch=st.integers(1, 3),
        length=st.one_of(st.integers(1, 40), st.integers(60, 130)),
        channels=st.one_of(st.integers(1, 40), st.sampled_from([64, 257])),
        modes=st.integers(1, 9),
        variant=st.integers(0, 5),
        dtype=st.sampled_from([SINGLE, DOUBLE]),
        seed=st.integers(0, 99),
    )
)
def test_random_inputs(kernel: Kernel, implementation: Implementation, draw: Draw) -> None:
    # Gradients of q and k of one key cancel in SDPA, and those of what a norm of one channel scales.
    cancels = kernel in (ATTENTION, MULTI_HEAD_ATTENTION) or (kernel is GATED_MLP and draw.channels == 1)
    error = ERROR[draw.dtype] * (3 if cancels else 1)
    assert_is_the_reference(kernel, implementation, INPUTS[kernel.name](draw), error)


WITH_NATIVE = pytest.mark.parametrize(
    "kernel", [kernel for kernel in OPERATORS if kernel.native is not None], ids=lambda kernel: kernel.name
)


@NEEDS_COMPILER
@WITH_NATIVE
@pytest.mark.parametrize("variant", range(6))
def test_shapes_that_do_not_fit_are_not_read_beyond_their_end(kernel: Kernel, variant: int) -> None:
    """Each tensor a little smaller, in each dimension: left to PyTorch, or what the reference gives, or an error as it
    raises one."""
    assert kernel.native is not None
    inputs = INPUTS[kernel.name](Draw(3, 66, 64, 4, variant, SINGLE, 5))
    # With states before it a convolution is PyTorch's, and so are attention's keys of odd sizes.
    assert kernel.native.serves(*inputs) or (kernel in (SHORT_CONVOLUTION, LINEAR_ATTENTION) and variant % 2)
    for place, one in enumerate(inputs):
        for dim in range(one.dim() if isinstance(one, Tensor) else 0):
            changed = [*inputs]
            changed[place] = one.narrow(dim, 0, one.shape[dim] - 1)
            if kernel.native.serves(*changed):
                try:
                    kernel.reference(*changed)
                except (RuntimeError, IndexError) as error:
                    with pytest.raises(type(error)):
                        kernel.native.function(*changed)
                else:
                    assert_is_the_reference(kernel, Implementation.NATIVE, changed, 3e-5)


@implementations
@rows
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("variant", range(4))
def test_the_default_dtype_decides_nothing(
    kernel: Kernel, implementation: Implementation, default: torch.dtype, variant: int
) -> None:
    inputs = INPUTS[kernel.name](Draw(2, 60, 64, 4, variant, SINGLE, 5))
    expected = outputs_and_gradients(kernel, implementation, inputs)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        found = outputs_and_gradients(kernel, implementation, inputs)
    finally:
        torch.set_default_dtype(before)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype is other.dtype
        assert torch.equal(one, other)


#: A tensor of each operator that everything is proportional to, so that it may have any size.
SCALED = {
    ATTENTION.name: 2,
    LINEAR_ATTENTION.name: 2,
    ROTARY.name: 0,
    LIQUID_SCAN.name: 3,
    SHORT_CONVOLUTION.name: 0,
    GATED_SHORT_CONVOLUTION.name: 1,
    LONG_CONVOLUTION.name: 1,
    S4D_KERNEL.name: 1,
    RESAMPLE.name: 0,
}


@implementations
@pytest.mark.parametrize("factor", [0.0, 2.0**-100, 2.0**80])
@pytest.mark.parametrize("kernel", [kernel for kernel in OPERATORS if kernel.name in SCALED], ids=lambda k: k.name)
def test_numbers_of_extreme_size(kernel: Kernel, implementation: Implementation, factor: float) -> None:
    """Scaled by a power of two, outputs are the unscaled ones times it, to the rounding of the largest."""
    inputs = list(INPUTS[kernel.name](Draw(2, 70, 5, 3, 0, SINGLE, 7)))
    place = SCALED[kernel.name]
    with forced(implementation):
        plain = kernel(*inputs)
        inputs[place] = inputs[place] * factor
        scaled = kernel(*inputs)
    plain, scaled = (one if isinstance(one, Tensor) else one[0] for one in (plain, scaled))
    expected = plain * factor
    assert float((scaled - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


@NEEDS_COMPILER
@pytest.mark.parametrize(
    "kernel",
    [kernel for kernel in OPERATORS if kernel.native is not None and kernel not in WITH_PRODUCTS],
    ids=lambda kernel: kernel.name,
)
@pytest.mark.parametrize("channels", [70, 600])
def test_threads_change_no_bit(kernel: Kernel, channels: int) -> None:
    inputs = INPUTS[kernel.name](Draw(2, 100, channels, 3, 0, SINGLE, 3))
    assert kernel.chosen(*inputs) is Implementation.NATIVE
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(outputs_and_gradients(kernel, Implementation.NATIVE, inputs))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for again in found[1:] for one, other in zip(found[0], again, strict=True))


@implementations
@rows
def test_views_are_read_as_what_they_show(kernel: Kernel, implementation: Implementation) -> None:
    """Tensors laid out with their first dimension last."""
    inputs = INPUTS[kernel.name](Draw(2, 70, 20, 3, 0, SINGLE, 5))
    views = [one.movedim(0, -1).contiguous().movedim(-1, 0) if isinstance(one, Tensor) else one for one in inputs]
    found, expected = (outputs_and_gradients(kernel, implementation, each) for each in (views, inputs))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


@implementations
@rows
@pytest.mark.parametrize("expanded", [True, False])
def test_gradients_are_read_as_what_they_show(kernel: Kernel, implementation: Implementation, expanded: bool) -> None:
    """One number for all, as of a sum, or numbers laid out with their first dimension last."""
    inputs = [
        one.detach().requires_grad_(differentiable(one)) if isinstance(one, Tensor) else one
        for one in INPUTS[kernel.name](Draw(2, 70, 20, 3, 0, SINGLE, 5))
    ]
    leaves = [one for one in inputs if isinstance(one, Tensor) and one.requires_grad]
    with forced(implementation):
        output = kernel(*inputs)
    output = main_output(kernel, output)
    plain = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(2))
    plain = torch.ones_like(plain) if expanded else plain
    laid_out = (
        plain[(0,) * plain.dim()].expand_as(plain) if expanded else plain.movedim(0, -1).contiguous().movedim(-1, 0)
    )
    found, expected = (
        torch.autograd.grad(output, leaves, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
        for weights in (laid_out, plain)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


@implementations
@rows
def test_a_checkpoint_changes_nothing(kernel: Kernel, implementation: Implementation) -> None:
    inputs = INPUTS[kernel.name](Draw(2, 70, 20, 3, 0, SINGLE, 5))
    leaves = [one.detach().requires_grad_() for one in inputs if differentiable(one)]
    found = []
    for again in (False, True):
        own = iter(leaves)
        given = [next(own) if differentiable(one) else one for one in inputs]
        with forced(implementation):
            output = checkpoint(kernel, *given, use_reentrant=False) if again else kernel(*given)
            loss = main_output(kernel, output).abs().square().sum()
            found.append(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@NEEDS_COMPILER
@pytest.mark.parametrize("paired", [False, True])
def test_a_liquid_scan_that_forgets_everything_is_its_drive(paired: bool) -> None:
    draw = Draw(2, 70, 20, 3, int(paired), SINGLE, 0)
    u, transition, drive, readout, state, _ = liquid(draw)
    with forced("native"):
        y, last = LIQUID_SCAN(u, transition, drive, readout, state, torch.zeros(1, 70))
    expected = (readout * drive).sum(-1)
    torch.testing.assert_close(y, u * (expected.real if paired else expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(last, drive * u[:, -1, :, None])


@implementations
@pytest.mark.parametrize("paired", [False, True])
def test_a_liquid_scan_at_its_bound_survives_long_sequences(implementation: Implementation, paired: bool) -> None:
    """Ā + B̄u up to 0.999, inputs of 1, 20,000 tokens: h reaches the fixed point B̄/(1 - Ā - B̄) and stays there."""
    transition, drive = torch.full((1, 1), 0.899), torch.full((1, 1), 0.1)
    numbers = [one.to(torch.complex64) if paired else one for one in (transition, drive, torch.ones(1, 1))]
    u = torch.ones(1, 20_000, 1, requires_grad=True)
    with forced(implementation):
        y, last = LIQUID_SCAN(u, *numbers, torch.zeros(1, 1, 1, dtype=numbers[0].dtype), None)
    fixed = 0.1 / 0.001
    torch.testing.assert_close(y[0, -1, 0], torch.tensor(fixed), rtol=1e-3, atol=0)
    torch.testing.assert_close(last.real.flatten(), y[0, -1])
    (gradient,) = torch.autograd.grad(y[0, -1, 0], u)
    torch.testing.assert_close(gradient[0, -1, 0], torch.tensor(0.1 * (1 + fixed)), rtol=1e-3, atol=0)
    assert bool(gradient.isfinite().all())


@implementations
@rows
def test_what_is_no_number_is_not_hidden(kernel: Kernel, implementation: Implementation) -> None:
    """A model that diverges must look like one."""
    inputs = list(INPUTS[kernel.name](Draw(1, 70, 20, 3, 0, SINGLE, 0)))
    inputs[0] = inputs[0].clone()
    inputs[0][-1] = float("nan")
    with forced(implementation):
        outputs = kernel(*inputs)
    assert bool(main_output(kernel, outputs).isnan().any())
