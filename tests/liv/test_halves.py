"""Kernels that read and write bfloat16: what they give is the float64 reference of the same rounded inputs, to the
error of one rounding or a few; and autocast leads to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_marks import NEEDS_COMPILER, implementations
from torch import Tensor

from star import LanguageModel, OptionPool
from star.genome import BackboneGenome
from star.liv import LIV, Call
from star.liv.kernels import attention, forced
from star.liv.kernels.attention import ATTENTION, HEAD_SIZES, causal_attention
from star.liv.kernels.gated_mlp import GATED_MLP
from star.liv.kernels.gated_unit import GATED_UNIT, gated_unit
from star.liv.kernels.rms_norm import RMS_NORM, add_rms_norm

HALF, SINGLE, DOUBLE = torch.bfloat16, torch.float32, torch.float64
EPSILON = 1e-5
GENOME = BackboneGenome.parse("11111 91111 51111 91111")
ROUNDING = 2.0**-9  # of one number, relatively, at most
tiles = pytest.mark.parametrize("tiles", [True, False])


def random(*shape: int, seed: int, dtype: torch.dtype = HALF, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def compared(
    function: Callable[..., Tensor | tuple[Tensor, ...]], inputs: Sequence[Tensor], implementation: str
) -> list[tuple[Tensor, Tensor]]:
    """Outputs and gradients of all inputs, ours and those of the float64 reference of the same numbers."""
    found = []
    for name, exact in ((implementation, False), ("reference", True)):
        own = [(tensor.to(DOUBLE) if exact else tensor).detach().requires_grad_() for tensor in inputs]
        with forced(name):
            outputs = function(*own)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        slopes = [random(*output.shape, seed=place).to(output.dtype) for place, output in enumerate(outputs)]
        gradients = torch.autograd.grad(outputs, own, slopes)
        found.append([*(output.detach() for output in outputs), *gradients])
        if not exact:
            assert [gradient.dtype for gradient in gradients] == [tensor.dtype for tensor in own]
    return list(zip(*found, strict=True))


def assert_near(pairs: list[tuple[Tensor, Tensor]], roundings: float) -> None:
    """All together to `roundings` errors of one rounding, and each number to ten times that of the largest."""
    for ours, exact in pairs:
        error = ours.double() - exact.double()
        assert ours.shape == exact.shape
        assert float(error.norm()) <= roundings * ROUNDING * float(exact.norm()) + 1e-30
        assert float(error.abs().max()) <= 10 * roundings * ROUNDING * float(exact.abs().max()) + 1e-30


@pytest.fixture(autouse=True)
def _any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors, which are left to PyTorch otherwise, are easier to look at."""
    for module in ("rms_norm", "gated_unit"):
        monkeypatch.setattr(f"star.liv.kernels.{module}.FEWEST", 0)


@NEEDS_COMPILER
def test_rounding_is_pytorchs_bit_by_bit() -> None:
    """Of every kind of number: ties, infinities, numbers that become infinite, and NaN."""
    bits = torch.randint(-(1 << 31), 1 << 31, (4096,), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    bits[:2048] &= -0x8000  # ties, and numbers that need no rounding
    weight = bits.view(SINGLE).clone()
    special = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 3.4e38, -3.4e38, 3.39e38, 1 + 2**-8, 1 + 3 * 2**-8]
    weight[: len(special)] = torch.tensor(special)
    weight[len(special) : len(special) + 2] = torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32).view(SINGLE)  # NaN, too
    x = torch.ones(1, 1, 4096)
    with forced("native"):
        exact, rounded = (add_rms_norm(x, None, weight, 0.0, dtype)[1] for dtype in (SINGLE, HALF))
    assert rounded.dtype is HALF
    assert bool(exact.isnan().any())
    assert bool(exact.isinf().any())
    number = ~exact.isnan()
    assert torch.equal(rounded[number].view(torch.int16), exact[number].to(HALF).view(torch.int16))
    assert bool(rounded[~number].isnan().all())


@implementations
@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 300), st.integers(8, 70)),
    update=st.sampled_from([None, SINGLE, HALF]),
    dtype=st.sampled_from([None, SINGLE, HALF]),
)
def test_norm(
    implementation: str, shape: tuple[int, int, int], update: torch.dtype | None, dtype: torch.dtype | None
) -> None:
    inputs = [random(*shape, seed=1, dtype=SINGLE), random(shape[-1], seed=2, dtype=SINGLE)]
    if update is not None:
        inputs.insert(1, random(*shape, seed=3, dtype=update))

    def norm(*given: Tensor) -> tuple[Tensor, ...]:
        x, added, weight = given if update is not None else (given[0], None, given[1])
        exact = x.dtype is DOUBLE
        total, y = add_rms_norm(x, added, weight, EPSILON, None if exact else dtype)
        assert total.dtype is x.dtype
        assert y.dtype is (x.dtype if exact else dtype or x.dtype)
        return (y,) if added is None else (total, y)

    assert_near(compared(norm, inputs, implementation), 4 if HALF in (update, dtype) else 0.05)


@implementations
def test_only_the_sum_of_a_norm_may_be_read(implementation: str) -> None:
    x, update, weight = random(2, 5, 16, seed=0, dtype=SINGLE), random(2, 5, 16, seed=1), torch.ones(16)
    update.requires_grad_()
    with forced(implementation):
        total, _ = add_rms_norm(x, update, weight, EPSILON, HALF)
    (gradient,) = torch.autograd.grad(total.sum(), update)
    assert gradient.dtype is HALF
    assert bool((gradient == 1).all())


@implementations
@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 300), st.integers(1, 70)), scale=st.sampled_from([1.0, 30.0, 1e4])
)
def test_gated_unit(implementation: str, shape: tuple[int, int, int], scale: float) -> None:
    pairs = compared(gated_unit, [random(*shape, seed=1, scale=scale), random(*shape, seed=2)], implementation)
    assert all(bool(ours.isfinite().all()) for ours, _ in pairs)
    assert_near(pairs, 4)


@tiles
@NEEDS_COMPILER
@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(64, 300),
    size=st.sampled_from(HEAD_SIZES),
    groups=st.integers(1, 3),
    position=st.sampled_from([None, 0, 1000]),
    scale=st.sampled_from([0.1, 1.0, 5.0]),
)
def test_attention(tiles: bool, length: int, size: int, groups: int, position: int | None, scale: float) -> None:
    """Queries of scale 5 leave some of them with hardly more than one key."""
    q, k, v = (
        random(2, length, heads, size, seed=seed, scale=factor).transpose(1, 2)
        for seed, (heads, factor) in enumerate(((2 * groups, scale), (2, 1.0), (2, 1.0)))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "TILES", tiles)
        assert ATTENTION.chosen(q, k, v, position) == "native"
        pairs = compared(lambda *qkv: causal_attention(*qkv, position), [q, k, v], "native")
    assert_near(pairs, 4 * max(1, scale))  # on tiles queries and keys are rounded once more when they have been turned


@tiles
@NEEDS_COMPILER
@pytest.mark.parametrize("size", HEAD_SIZES)
def test_attention_of_scores_of_any_size(tiles: bool, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of thousands: each query sees one key alone, and nothing overflows."""
    monkeypatch.setattr(attention, "TILES", tiles)
    q = random(1, 2, 200, size, seed=0, scale=300.0)
    inputs = [q, random(1, 2, 200, size, seed=1, scale=300.0), random(1, 2, 200, size, seed=2, scale=1e4)]
    (y, exact), *gradients = compared(causal_attention, inputs, "native")
    assert_near([(y, exact)], 4)
    assert all(bool(ours.isfinite().all()) for ours, _ in gradients)


@tiles
@NEEDS_COMPILER
def test_no_query_sees_a_later_key(tiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "TILES", tiles)
    for size in HEAD_SIZES:
        q, k, v = (random(1, 2, 150, size, seed=seed) for seed in range(3))
        with forced("native"):
            y = causal_attention(q, k, v)
            for token in (1, 15, 16, 31, 32, 33, 100, 149):
                others = [tensor.clone() for tensor in (q, k, v)]
                for tensor in others:
                    tensor[:, :, token:] *= -100
                changed = causal_attention(*others)
                assert torch.equal(changed[:, :, :token], y[:, :, :token])
                assert not torch.equal(changed[:, :, token], y[:, :, token])


@NEEDS_COMPILER
def test_threads_change_no_bit() -> None:
    q, k, v = (random(3, 4, 200, 64, seed=seed) for seed in range(3))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            pairs = compared(causal_attention, [q, k, v], "native")
            found.append([ours for ours, _ in pairs])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@NEEDS_COMPILER
def test_views_that_are_not_contiguous() -> None:
    q, k, v = (random(2, 4, 130, 64, seed=seed)[..., ::2].transpose(0, 1) for seed in range(3))
    assert_near(compared(causal_attention, [q, k, v], "native"), 4)
    assert_near(compared(lambda *qkv: causal_attention(*qkv).transpose(2, 3).contiguous(), [q, k, v], "native"), 4)
    gate, up = random(2, 6, 10, seed=0).transpose(0, 1), random(6, 2, 20, seed=1)[..., ::2]
    assert_near(compared(gated_unit, [gate, up], "native"), 4)


@NEEDS_COMPILER
def test_what_is_not_all_of_one_type_runs_portable() -> None:
    x, q = random(4, 8, seed=0), random(1, 1, 64, 64, seed=1)
    stream, weight = random(1, 4, 8, seed=2, dtype=SINGLE), torch.ones(8)
    assert GATED_UNIT.chosen(x, x) == ATTENTION.chosen(q, q, q) == "native"
    assert GATED_UNIT.chosen(x, x.float()) == GATED_UNIT.chosen(x.half(), x.half()) == "portable"
    assert ATTENTION.chosen(q, q, q.float()) == ATTENTION.chosen(q.half(), q.half(), q.half()) == "portable"
    assert RMS_NORM.chosen(stream, stream.bfloat16(), weight, EPSILON, HALF) == "native"
    assert RMS_NORM.chosen(stream, stream.half(), weight, EPSILON, None) == "portable"
    assert RMS_NORM.chosen(stream, None, weight, EPSILON, torch.float16) == "portable"
    assert RMS_NORM.chosen(stream.bfloat16(), None, weight.bfloat16(), EPSILON, HALF) == "portable"
    wide = [random(*size, seed=3) for size in ((24, 8), (24, 8), (8, 24))]
    assert GATED_MLP.chosen(stream, None, None, 0.0, *wide) == "native"
    assert GATED_MLP.chosen(stream, stream.bfloat16(), weight, EPSILON, *wide) == "native"
    assert GATED_MLP.chosen(stream, None, None, 0.0, *wide[:2], wide[2].float()) == "portable"


@NEEDS_COMPILER
@pytest.mark.skipif(not torch.cpu._is_amx_tile_supported(), reason="this CPU has no tiles for bfloat16")
def test_tiles_are_used_and_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (random(1, 2, 100, 64, seed=seed) for seed in range(3))
    with forced("native"):
        on_tiles = causal_attention(q, k, v)
        monkeypatch.setattr(attention, "TILES", False)
        assert not torch.equal(causal_attention(q, k, v), on_tiles)


@implementations
@pytest.mark.parametrize("number", [1, 9])
@pytest.mark.parametrize("width", [32, 128])
def test_autocast_leads_a_liv_to_them(implementation: str, number: int, width: int) -> None:
    """Attention and the gated unit with the norm before them: output and gradients are near those without autocast."""
    torch.manual_seed(0)
    liv, weight = LIV(OptionPool.paper()[number], width), torch.ones(width, requires_grad=True)
    x, update = (random(8, 80, width, seed=seed, dtype=SINGLE).requires_grad_() for seed in (0, 1))
    leaves = [x, update, weight, *liv.parameters()]
    found = []
    for autocast in (True, False):
        with forced(implementation), torch.autocast("cpu", HALF, enabled=autocast):
            fused = liv.fused(x, Call(), None, update.to(HALF) if autocast else update, weight, EPSILON)
        assert fused is not None
        total, y = fused
        assert (total.dtype, y.dtype) == (SINGLE, HALF if autocast else SINGLE)
        loss = (y.float() * random(*y.shape, seed=4, dtype=SINGLE)).sum() + total.square().sum()
        found.append([total, y, *torch.autograd.grad(loss, leaves)])
    assert all(gradient.dtype is SINGLE for gradient in found[0][2:])
    assert_near([(ours.detach(), exact.detach()) for ours, exact in zip(*found, strict=True)], 10)


@implementations
@pytest.mark.parametrize("number", [1, 9])
def test_other_autocasts_are_pytorchs(implementation: str, number: int) -> None:
    """To float16; of float64, which stays what it is; and without gradients the gated unit's, where casts are kept."""
    liv, x = LIV(OptionPool.paper()[number], 64), random(8, 80, 64, seed=0, dtype=SINGLE)
    with forced(implementation), torch.autocast("cpu", torch.float16):
        assert liv.fused(x, Call(), None, None, torch.ones(64), EPSILON) is None
        assert liv(x).dtype is torch.float16
    with forced(implementation), torch.autocast("cpu", HALF):
        with torch.no_grad():
            assert (liv.fused(x, Call(), None, None, torch.ones(64), EPSILON) is None) == (number == 9)
            assert liv(x).dtype is HALF
        y = liv.double()(x.double())
    assert y.dtype is DOUBLE
    torch.testing.assert_close(y, liv(x.double()))


@implementations
def test_a_step_in_halves_is_near_one_in_floats(implementation: str) -> None:
    """Of a whole model, with every parameter's gradient."""
    model = LanguageModel.from_genome(GENOME, width=128, vocab_size=50, seed=0)
    tokens, targets = torch.randint(0, 50, (2, 8, 96), generator=torch.Generator().manual_seed(0))
    found = []
    for autocast in (True, False):
        with forced(implementation), torch.autocast("cpu", HALF, enabled=autocast):
            loss = model.loss(tokens, targets)
        found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    assert_near([(ours.detach(), exact.detach()) for ours, exact in zip(*found, strict=True)], 20)
