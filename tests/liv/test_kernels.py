"""Every implementation of an operator is its float64 reference: outputs and gradients, on usual and extreme inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from kernel_marks import NEEDS_COMPILER, implementations
from torch import Tensor

from star.errors import StarError
from star.liv import kernels
from star.liv.kernels import Implementation, forced, native, portable_scan
from star.liv.kernels.attention import ATTENTION, causal_attention
from star.liv.kernels.liquid_scan import liquid_scan
from star.liv.kernels.selective_scan import SELECTIVE_SCAN, selective_scan

PORTABLE = Implementation.PORTABLE
PLAIN = (None, None, None, False)  # a scan that forgets nothing, without skip and gate, of finished Δ


def outputs_and_gradients(
    operator: Callable, inputs: Sequence[Tensor], *others: Tensor | None, seed: int = 1
) -> list[Tensor]:
    """Outputs, and the gradients of their sum with random weights."""
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    outputs = operator(*inputs, *others)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(output.shape, dtype=output.dtype, generator=generator) for output in outputs]
    loss = sum((output * weight).sum() for output, weight in zip(outputs, weights, strict=True))
    gradients = torch.autograd.grad(loss.real if loss.is_complex() else loss, inputs)
    return [*(output.detach() for output in outputs), *gradients]


def assert_is_the_reference(
    implementation: Implementation, operator: Callable, inputs: Sequence[Tensor], *others: Tensor | None, error: float
) -> None:
    """Each tensor within `error` of the reference, relative to its largest number (or to 1, if that is smaller)."""
    with forced(implementation):
        ours = outputs_and_gradients(operator, inputs, *others)
    with forced("reference"):
        expected = outputs_and_gradients(operator, inputs, *others)
    for place, (one, other) in enumerate(zip(ours, expected, strict=True)):
        assert one.shape == other.shape
        assert bool(one.isfinite().all()), f"tensor {place} is not finite"
        found = float((one - other).abs().max()) / max(1.0, float(other.abs().max()))
        assert found <= error, f"tensor {place}: error {found:.1e}"


def scan_inputs(
    batch: int, length: int, channels: int, states: int, dtype: torch.dtype = torch.float32, step: float = 1.0
) -> list[Tensor]:
    """x, Δ, A, B, C and h."""
    generator = torch.Generator().manual_seed(batch + length + channels + states)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    x, delta = normal(batch, length, channels), step * normal(batch, length, channels).abs()
    decay = -3 * normal(channels, states).abs()
    b, c, h = normal(batch, length, states), normal(batch, length, states), normal(batch, states, channels)
    return [tensor.to(dtype) for tensor in (x, delta, decay, b, c, h)]


#: batch, length, channels, N: single elements, lengths around a chunk of 16, channels around one and two registers and
#: around a group of 768, state sizes from 1.
SCANS = [
    (1, 1, 1, 1),
    (2, 2, 16, 1),
    (3, 15, 17, 2),
    (1, 16, 32, 16),
    (2, 17, 31, 16),
    (1, 33, 64, 32),
    (2, 129, 5, 3),
    (1, 20, 771, 2),
]


@implementations
@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize(("batch", "length", "channels", "states"), SCANS)
def test_selective_scan(
    implementation: Implementation, batch: int, length: int, channels: int, states: int, forget: bool
) -> None:
    """`keep` as one row for the batch; the initial state and the gradient of the last one take part."""
    keep = torch.arange(length).unsqueeze(0) % 7 != 3 if forget else None
    inputs = scan_inputs(batch, length, channels, states)
    assert_is_the_reference(implementation, selective_scan, inputs, keep, error=2e-6)


@implementations
def test_each_sequence_forgets_on_its_own(implementation: Implementation) -> None:
    keep = torch.rand(3, 50, generator=torch.Generator().manual_seed(0)) > 0.2
    assert_is_the_reference(implementation, selective_scan, scan_inputs(3, 50, 9, 4), keep, error=2e-6)


@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize(("length", "states"), [(1, 4), (2, 1), (40, 16), (129, 2)])
def test_portable_selective_scan_in_float64_and_several_segments(
    length: int, states: int, forget: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portable_scan, "CACHED_ELEMENTS", 2 * 5 * states * 24)
    keep = torch.arange(length).unsqueeze(0) % 7 != 0 if forget else None
    inputs = scan_inputs(2, length, 5, states, torch.float64)
    assert portable_scan._Cut.of(inputs[0], inputs[2]).segments == -(-length // 24)
    assert_is_the_reference(PORTABLE, selective_scan, inputs, keep, error=1e-12)


@pytest.mark.parametrize("rows", [1, 5])
def test_portable_selective_scan_of_a_few_sequences_at_a_time(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of five, so that the last one is alone; `keep` for all of them, or for each."""
    monkeypatch.setattr("star.liv.kernels.portable_scan.STEP_ELEMENTS", 2 * 4 * 3)
    keep = torch.rand(rows, 40, generator=torch.Generator().manual_seed(0)) > 0.2
    inputs = scan_inputs(5, 40, 4, 3, torch.float64)
    assert_is_the_reference(PORTABLE, selective_scan, inputs, keep, error=1e-12)


def with_gates(
    x: Tensor, delta: Tensor, decay: Tensor, b: Tensor, c: Tensor, h: Tensor, skip: Tensor, gate: Tensor, keep: Tensor
) -> tuple[Tensor, Tensor]:
    """All that a scan can take, all of it differentiable but `keep`."""
    return selective_scan(x, delta, decay, b, c, h, keep, skip=skip, gate=gate, raw=True)


@implementations
@pytest.mark.parametrize(("batch", "length", "channels", "states"), SCANS)
def test_selective_scan_with_its_gates(
    implementation: Implementation, batch: int, length: int, channels: int, states: int
) -> None:
    """Raw Δ of both signs; the skip's gradient is a sum over the batch."""
    inputs = scan_inputs(batch, length, channels, states)
    inputs[1] = 3 * torch.randn(batch, length, channels, generator=torch.Generator().manual_seed(0))
    skip, gate = inputs[0][0, 0].roll(1).clone(), inputs[0].roll(1)
    keep = torch.arange(length).unsqueeze(0) % 7 != 3
    assert_is_the_reference(implementation, with_gates, [*inputs, skip, gate], keep, error=3e-6)


@implementations
@pytest.mark.parametrize("part", ["skip", "gate"])
def test_skip_and_gate_come_alone_or_together(implementation: Implementation, part: str) -> None:
    x, *others = scan_inputs(2, 19, 35, 3)
    own = x[0, 0].clone() if part == "skip" else x.roll(1)

    def alone(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        return selective_scan(*inputs[:-1], **{part: inputs[-1]})

    assert_is_the_reference(implementation, alone, [x, *others, own], error=3e-6)


@NEEDS_COMPILER
def test_native_softplus_and_its_slope_are_right_to_the_last_bits() -> None:
    """With A = h = 0, x = B = C = 1 and one token, y is Δ = log(1 + e^r): over the whole range of r, with its
    derivative 1 / (1 + e^-r), relative to each number and not to the largest."""
    r = torch.cat([torch.linspace(-80, 80, 40_001), torch.linspace(-1, 1, 10_001), torch.tensor([1e4, 3e38, -3e38])])
    r = r[None, None].requires_grad_()
    one, zero = torch.ones(1, 1, 1), torch.zeros_like(r)
    with forced("native"):
        y, _ = selective_scan(torch.ones_like(r), r, zero[0].t(), one, one, zero, raw=True)
    (slope,) = torch.autograd.grad(y.sum(), r)
    exact = r.detach().double()
    eps = torch.finfo(torch.float32).eps
    allowed = (3 + 1.5 * exact.clamp(-90, 0).abs()) * eps  # the exponent of a small e^r is rounded itself
    for found, expected in ((y, torch.logaddexp(exact, torch.zeros_like(exact))), (slope, torch.sigmoid(exact))):
        normal = expected >= torch.finfo(torch.float32).tiny
        assert bool(((found.double() - expected).abs()[normal] <= (allowed * expected)[normal]).all())
        assert not bool(found[~normal].any())


@implementations
@pytest.mark.parametrize("step", [0.0, 1e-38, 1e-6, 30.0, 1e4, 1e30])
def test_selective_scan_with_extreme_steps(implementation: Implementation, step: float) -> None:
    """Decays that are exactly 1, and decays that underflow to exactly 0; never NaN."""
    x, delta, decay, b, c, h = scan_inputs(2, 40, 19, 4, step=step)
    x = x / max(1.0, step)
    weak = [x, delta, decay, b, c / max(1.0, step) ** 0.5, h]
    with forced(implementation):
        found = outputs_and_gradients(selective_scan, weak)
    with forced("reference"):
        expected = outputs_and_gradients(selective_scan, weak)
    for one, other in zip(found, expected, strict=True):
        assert bool(one.isfinite().all())
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-6 * max(1.0, float(other.abs().max())))


@implementations
def test_selective_scan_of_zeros_is_zero(implementation: Implementation) -> None:
    inputs = [torch.zeros_like(tensor) for tensor in scan_inputs(2, 20, 18, 4)]
    with forced(implementation):
        assert all(not bool(tensor.any()) for tensor in selective_scan(*inputs))


@implementations
def test_selective_scan_survives_strong_decay_and_long_sequences(implementation: Implementation) -> None:
    length = 65_536
    x = torch.randn(1, length, 2)
    delta = torch.full((1, length, 2), 50.0).requires_grad_()
    ones = torch.ones(1, length, 1)
    with forced(implementation):
        y, _ = selective_scan(x, delta, torch.full((2, 1), -30.0), ones, ones, torch.zeros(1, 1, 2))
    y.sum().backward()
    torch.testing.assert_close(y, 50 * x)
    assert delta.grad is not None
    assert delta.grad.isfinite().all()


@implementations
def test_selective_scan_of_views(implementation: Implementation) -> None:
    """Transposed, sliced and expanded tensors, in any order of strides."""
    x, delta, decay, b, c, h = scan_inputs(3, 37, 20, 4)
    wide = torch.stack([x, x], dim=-1)
    views = [
        wide[..., 0],
        delta.transpose(0, 1).contiguous().transpose(0, 1),
        decay.t().contiguous().t(),
        torch.cat([c, b], dim=-1)[..., 4:],
        c[:1].expand(3, -1, -1),
        h.transpose(1, 2).contiguous().transpose(1, 2),
    ]
    assert_is_the_reference(implementation, selective_scan, views, error=2e-6)


@NEEDS_COMPILER
def test_native_decays_are_exponentials_to_the_last_bits() -> None:
    """With x = 0, h = C = 1 and one state, y is exp(Δ A): right over its whole range, 0 where that underflows."""
    delta = torch.cat([torch.logspace(-30, 3, 40_001), torch.linspace(80, 110, 10_001)])[None, None]
    one = torch.ones(1, 1, 1)
    with forced("native"):
        y, _ = selective_scan(
            torch.zeros_like(delta), delta, -torch.ones(delta.shape[-1], 1), one, one, torch.ones_like(delta)
        )
    exact = torch.exp(-delta.double())
    smallest = torch.finfo(torch.float32).tiny
    normal = exact >= smallest
    relative = (y.double() / exact - 1).abs()[normal] / torch.finfo(torch.float32).eps
    assert bool((relative <= 1.5 + 1.5 * delta[normal]).all())  # the exponent itself is rounded twice
    assert bool((relative[delta[normal] < 0.1] <= 1.5).all())
    assert bool((y[~normal] <= 1.01 * smallest).all())
    assert not bool(y[delta > 104].any())


@NEEDS_COMPILER
def test_native_kernels_pass_nan_on() -> None:
    """A diverged model must look like one."""
    inputs = scan_inputs(1, 20, 3, 2)
    inputs[1][0, 5, 1] = float("nan")
    with forced("native"):
        y, _ = selective_scan(*inputs)
    assert bool(y[0, 5:, 1].isnan().all())
    assert bool(y[0, :, [0, 2]].isfinite().all())


def attention_inputs(
    batch: int, heads: int, kv_heads: int, length: int, size: int, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """q, k and v, laid out as the mixer has them."""
    generator = torch.Generator().manual_seed(length + size)
    shapes = [(batch, length, count, size) for count in (heads, kv_heads, kv_heads)]
    return [2 * torch.randn(shape, generator=generator, dtype=dtype).transpose(1, 2) for shape in shapes]


#: batch, heads, kv heads, length, head size: lengths around one and two blocks of 48, single tokens, grouped queries.
ATTENTIONS = [
    (1, 1, 1, 1, 16),
    (2, 4, 2, 5, 32),
    (1, 6, 3, 47, 64),
    (2, 2, 1, 48, 64),
    (1, 4, 4, 49, 16),
    (1, 4, 1, 97, 32),
    (1, 2, 2, 200, 64),
]


@implementations
@pytest.mark.parametrize(("batch", "heads", "kv_heads", "length", "size"), ATTENTIONS)
def test_attention(
    implementation: Implementation,
    batch: int,
    heads: int,
    kv_heads: int,
    length: int,
    size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("star.liv.kernels.attention.SHORTEST", 1)
    inputs = attention_inputs(batch, heads, kv_heads, length, size)
    assert_is_the_reference(implementation, causal_attention, inputs, error=5e-6)


@implementations
@pytest.mark.parametrize("factor", [0.0, 2.0**-60, 2.0**5, 2.0**10])
def test_attention_with_extreme_scores(implementation: Implementation, factor: float) -> None:
    """From all keys alike to a few that share everything: with factors of two, equal scores are equal in float32."""
    q, k, v = attention_inputs(1, 2, 1, 100, 16)
    q, k = q.sign() * factor, k.sign()
    with forced(implementation):
        found = outputs_and_gradients(causal_attention, [q, k, v])
    with forced("reference"):
        expected = outputs_and_gradients(causal_attention, [q, k, v])
    for one, other in zip(found, expected, strict=True):
        assert bool(one.isfinite().all())
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5 * max(1.0, float(other.abs().max())))


@implementations
def test_attention_where_all_first_scores_overflow(implementation: Implementation) -> None:
    """Scores of -∞ share nothing, however many keys in a row have them."""
    q, k, v = attention_inputs(1, 1, 1, 130, 16)
    q, k = torch.ones_like(q), torch.zeros_like(k)
    k[:, :, :60] = -3e38
    with forced(implementation):
        y = causal_attention(q, k, v)
    torch.testing.assert_close(y[:, :, 129], v[:, :, 60:].mean(2), rtol=1e-5, atol=1e-5)


@implementations
def test_attention_of_views(implementation: Implementation) -> None:
    q, k, v = attention_inputs(2, 4, 2, 70, 16)
    views = [
        torch.stack([q, q], dim=-1)[..., 0],
        torch.cat([v, k], dim=1)[:, 2:],
        torch.cat([v, k], dim=2)[:, :, :70],
    ]
    assert_is_the_reference(implementation, causal_attention, views, error=5e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("forget", [False, True])
def test_liquid_scan(dtype: torch.dtype, forget: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    transition, drive, readout = (0.3 * torch.randn(5, 3, dtype=dtype, generator=generator) for _ in range(3))
    u = torch.rand(2, 70, 5, dtype=torch.float64, generator=generator)
    state = torch.randn(2, 5, 3, dtype=dtype, generator=generator)
    keep = torch.arange(70).unsqueeze(0) % 9 != 4 if forget else None
    assert_is_the_reference(PORTABLE, liquid_scan, [u, transition, drive, readout, state], keep, error=1e-12)


@NEEDS_COMPILER
@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_nothing(threads: int) -> None:
    scans, heads = scan_inputs(2, 50, 1600, 3), attention_inputs(2, 6, 3, 100, 16)
    before = torch.get_num_threads()
    found = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            with forced("native"):
                found.append(
                    outputs_and_gradients(selective_scan, scans) + outputs_and_gradients(causal_attention, heads)
                )
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@NEEDS_COMPILER
def test_native_runs_where_it_can_and_portable_elsewhere() -> None:
    single, double = scan_inputs(1, 4, 3, 2), scan_inputs(1, 4, 3, 2, torch.float64)
    assert SELECTIVE_SCAN.chosen(*single, *PLAIN) is Implementation.NATIVE
    assert SELECTIVE_SCAN.chosen(*double, *PLAIN) is PORTABLE
    assert SELECTIVE_SCAN.chosen(*(tensor.to("meta") for tensor in single), *PLAIN) is PORTABLE
    assert ATTENTION.chosen(*attention_inputs(1, 2, 2, 100, 16)) is Implementation.NATIVE
    assert ATTENTION.chosen(*attention_inputs(1, 2, 2, 100, 24)) is PORTABLE
    assert ATTENTION.chosen(*attention_inputs(1, 2, 2, 8, 16)) is PORTABLE


@pytest.mark.parametrize("name", ["reference", "portable", pytest.param("native", marks=NEEDS_COMPILER)])
def test_the_environment_forces_a_choice_and_a_block_overrules_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAR_KERNELS", name)
    inputs = scan_inputs(1, 4, 3, 2)
    assert SELECTIVE_SCAN.chosen(*inputs, *PLAIN) == name
    assert kernels.choice(SELECTIVE_SCAN).implementation == name
    for other in ("reference", "portable"):
        with forced(other):
            assert SELECTIVE_SCAN.chosen(*inputs, *PLAIN) == other


def test_a_name_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAR_KERNELS", "fastest")
    with pytest.raises(StarError, match="'fastest'; it may be one of reference, portable, native, triton"):
        selective_scan(*scan_inputs(1, 4, 3, 2))


def test_the_fingerprint_names_every_operator_and_changes_with_the_choice() -> None:
    fast = kernels.fingerprint()
    with forced("portable"):
        slow = kernels.fingerprint()
    assert fast == kernels.fingerprint()
    assert all(kernel.name in fast and f"{kernel.name} portable" in slow for kernel in kernels.KERNELS)
    assert (fast == slow) == (native.compiler() is None)
