"""The Deformer reads where it says: between two tokens, never ahead, at exact positions, within its window."""

from __future__ import annotations

from math import floor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from star import LanguageModel, OptionPool, preset
from star.genome.variation import unconnected
from star.liv import LIV, Call
from star.liv.kernels.resample import resample
from star.liv.shift import Shift, bounded_shift, resampled
from star.lm import analyse

POOL = OptionPool.full()


def plain(values: Tensor, shift: Tensor) -> Tensor:
    """Position by position and channel by channel, zeros before the start."""
    output = torch.zeros_like(values)
    for b in range(values.shape[0]):
        for t in range(values.shape[1]):
            for d in range(values.shape[2]):
                place = t - float(shift[b, t, d])
                below = floor(place)
                for j, weight in ((below, 1 - (place - below)), (below + 1, place - below)):
                    if j >= 0 and weight > 0:
                        assert j <= t
                        output[b, t, d] += weight * values[b, j, d]
    return output


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.sampled_from([1, 2, 5, 16]), st.integers(0, 1000))
def test_resampling_is_interpolation_between_two_tokens(length: int, window: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, length, 3, dtype=torch.float64, generator=generator)
    shift = window * torch.rand(2, length, 3, dtype=torch.float64, generator=generator)
    shift[0, 0], shift[1, -1], shift[0, -1, 0] = 0, window, min(1, window)  # the ends, and a whole number
    padded = torch.cat([values.new_zeros(2, window, 3), values], 1)
    torch.testing.assert_close(resample(padded, shift), plain(values, shift), rtol=1e-12, atol=1e-12)


def test_gradients_of_resampling() -> None:
    values = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    shift = (3.9 * torch.rand(2, 5, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(resample, (values, shift))


def test_strided_values_shifts_and_gradients() -> None:
    values, shift, weights = (torch.randn(3, 9, 2, dtype=torch.float64).abs() for _ in range(3))
    found = []
    for lay in (Tensor.contiguous, lambda tensor: tensor):
        leaves = [values.clone().requires_grad_(), shift[:, :5].clone().clamp(max=4).requires_grad_()]
        output = resample(*(lay(leaf.permute(2, 1, 0)) for leaf in leaves))
        found.append([output, *torch.autograd.grad((output * weights[:, :5].permute(2, 1, 0)).sum(), leaves)])
    assert all(map(torch.equal, *found))


def test_gradients_of_many_reads_of_one_token() -> None:
    """All of a chunk read token 0, at the far bound: their gradients add up, and outputs are its copies exactly."""
    values = torch.randn(2, 2000, 8, dtype=torch.float64, requires_grad=True)
    shift = torch.arange(1000.0, 2000.0, dtype=torch.float64).view(1, -1, 1).expand(2, -1, 8).clamp(max=1000)
    shift = torch.cat([shift[:, :1], torch.zeros_like(shift[:, 1:])], 1)
    output = resample(values, shift)
    assert torch.equal(output[:, 0], values[:, 0])
    assert torch.equal(output[:, 1:], values[:, 1001:])
    same = resample(values[:, :1].expand(-1, 2000, -1), torch.full_like(shift, 999.25))
    (gradient,) = torch.autograd.grad(same.sum(), values)
    torch.testing.assert_close(gradient[:, 0], torch.full_like(gradient[:, 0], 1000.0))
    assert not gradient[:, 1:].any()


@pytest.mark.parametrize("channels", [3, 8])
def test_a_shift_that_is_no_number_spoils_its_own_output_only(channels: int) -> None:
    values, shift = torch.randn(2, 9, channels), torch.rand(2, 5, channels)
    shift[1, 2, 1] = float("nan")
    output = resample(values, shift)
    assert output.isnan().sum() == 1
    assert output[1, 2, 1].isnan()


def test_positions_are_exact_in_bf16() -> None:
    """Whole shifts copy single tokens, at any position: a position in bf16 would be off by up to 128 tokens there."""
    length, window = 40_000, 64
    values = torch.randn(1, window + length, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    shift = torch.arange(length).remainder(window).view(1, -1, 1).expand(-1, -1, 2).float()
    places = torch.arange(window, window + length).view(1, -1, 1).expand(-1, -1, 2) - shift.long()
    assert torch.equal(resample(values, shift), values.gather(1, places))


def test_fractions_are_exact_in_bf16_too() -> None:
    """Values in bf16, shifts in float32: off by the rounding of the values' own arithmetic, in a window of 1,000."""
    generator = torch.Generator().manual_seed(0)
    values = torch.linspace(0, 1, 3000).view(1, -1, 1).expand(-1, -1, 2).bfloat16()
    shift = 1000 * torch.rand(1, 2000, 2, generator=generator)
    exact = resample(values.double(), shift.double())
    assert float((resample(values, shift).double() - exact).abs().max()) < 2**-8


def test_a_shift_that_is_no_number_gives_no_number() -> None:
    """A model that diverges is found out by its loss, so nothing before it may fail on the way."""
    values = torch.ones(1, 6, 2, requires_grad=True)
    shift = torch.ones(1, 4, 2)
    shift[0, 1, 0] = float("nan")
    output = resample(values, shift)
    assert output.isnan().sum() == 1
    output.sum().backward()
    model = LanguageModel.from_genome("23.1.1.1.1 24.1.1.1.1", pool=POOL, width=32, vocab_size=9)
    with torch.no_grad():
        model.embedding.weight.fill_(float("nan"))
    assert model.loss(*torch.zeros(2, 1, 5, dtype=torch.long)).isnan()


@pytest.mark.parametrize("window", [3, 7, 10**6])
def test_a_window_longer_than_the_sequence_costs_no_more(window: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1, 7, 2, dtype=torch.float64, generator=generator)
    shift = min(window, 20) * torch.rand(1, 7, 2, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(resampled(values, 7, shift, window), plain(values, shift), rtol=1e-12, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e4, 1e6), st.sampled_from([1, 2, 64, 1024]))
def test_shifts_stay_within_the_window(raw: float, window: int) -> None:
    shift = bounded_shift(torch.tensor([raw]), window)
    assert shift.dtype == torch.float32
    assert 0 <= float(shift) <= window


def test_shifts_follow_softplus_where_they_are_small_and_never_go_flat() -> None:
    raw = torch.linspace(-6, 3, 50, dtype=torch.float64, requires_grad=True)
    shift = bounded_shift(raw, 4096)
    torch.testing.assert_close(shift, torch.nn.functional.softplus(raw), rtol=1e-3, atol=0)
    far = torch.tensor([200.0], dtype=torch.float64, requires_grad=True)
    assert float(torch.autograd.grad(bounded_shift(far, 64).sum(), far)[0]) > 0


def test_fresh_shifts_are_spread_over_the_window() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shift = Shift(torch.nn.Identity(), 4096, 64)
    start = bounded_shift(shift.bias.detach(), 64)
    assert 0.4 < float(start.min()) < 0.6
    assert 35 < float(start.max()) < 64


@pytest.mark.parametrize("liv", [23, 24])
def test_the_deformer_written_out(liv: int) -> None:
    """y = W_o (g ⊙ v(t - s)); in Deformer-2 g is read at shifts of its own."""
    layer = LIV(POOL[liv], 16, 64).double()
    operator = layer.operators[0]
    x = torch.randn(2, 12, 16, dtype=torch.float64)
    groups = operator.featurizer.groups
    with torch.no_grad():
        value = x @ groups["v"].project.weight.t()
        shift = bounded_shift(x @ groups["s"].project.weight.t() + groups["s"].bias, 64)
        gate = x @ groups["g"].project.weight.t()
        if liv == 23:
            gate = torch.nn.functional.silu(gate)
        else:
            own = groups["g"].shift
            gate = plain(gate, bounded_shift(x @ own.project.weight.t() + own.bias, 64))
        expected = operator.output(gate * plain(value, shift))
        torch.testing.assert_close(layer(x, Call()), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", ["deformer", "deformer-only"])
def test_the_cache_of_the_presets_does_not_grow_beyond_the_window(name: str) -> None:
    genome, pool = preset(name, 8)
    sizes = [analyse(genome, pool, width=64, length=length).cache_bytes for length in (1, 64, 1024, 65_536)]
    layers = 4 if name == "deformer" else 8
    assert sizes == [layers * 64 * 2, *[layers * 64 * 64 * 2] * 3]


def test_a_deformer_forgets_what_is_older_than_its_window() -> None:
    model = LanguageModel.from_genome(unconnected([23]), pool=POOL, width=32, vocab_size=9, seed=0).double()
    tokens = torch.randint(0, 9, (1, 100), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, :20] = (changed[:, :20] + 1) % 9
    with torch.no_grad():
        difference = (model(changed) - model(tokens)).abs().amax(-1)[0]
    assert float(difference[84:].max()) == 0
    assert float(difference[20:60].max()) > 0
