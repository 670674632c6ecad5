"""Fixed state spaces: the kernel, the recurrence and the chunks are one system, sampled by zero-order hold; the liquid
one is causal and bounded."""

from __future__ import annotations

from math import log, pi

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from star import BackboneGenome, LanguageModel, OptionPool
from star.backbone import Backbone
from star.genome import StateSpace
from star.genome.variation import unconnected
from star.liv import LIV, Call
from star.liv.kernels.liquid_scan import liquid_scan
from star.liv.kernels.scan import linear_scan
from star.liv.kernels.state_space import s4d_kernel
from star.liv.state_space import StateSpaceKernel, absorb, advance, respond, restored, stored
from star.training.optimizer import parameter_groups

POOL = OptionPool.full()
LONG = 65_536
both_spaces = pytest.mark.parametrize("space", list(StateSpace))


def kernel_of(space: StateSpace, channels: int = 3, size: int = 8, seed: int = 0) -> StateSpaceKernel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kernel = StateSpaceKernel(space, channels, size).double()
        with torch.no_grad():
            for parameter in kernel.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return kernel


def plain(kernel: StateSpaceKernel, u: Tensor) -> Tensor:
    """x' = A x + B u, y = 2 Re(C x) + D u, held constant for Δ: written out token by token. u: [ℓ, channels]."""
    step = functional.softplus(kernel.step_size.value)[:, None]
    a = -kernel.modes.log_decay.exp()
    b, c, factor = kernel.drive.value, kernel.readout.value, 1
    if kernel.modes.frequency is not None:
        a = torch.complex(a, kernel.modes.frequency)
        b, c, factor = torch.complex(b[:, ::2], b[:, 1::2]), torch.complex(c[:, ::2], c[:, 1::2]), 2
    x, outputs = torch.zeros_like(a), []
    for value in u:
        x = (step * a).exp() * x + ((step * a).exp() - 1) / a * b * value[:, None]
        y = factor * (c * x).sum(-1)
        outputs.append((y.real if y.is_complex() else y) + kernel.present * value)
    return torch.stack(outputs)


@both_spaces
def test_the_kernel_is_the_impulse_response(space: StateSpace) -> None:
    kernel = kernel_of(space)
    impulse = torch.zeros(50, 3, dtype=torch.float64)
    impulse[0] = 1
    torch.testing.assert_close(kernel(50), plain(kernel, impulse).t(), rtol=1e-10, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(StateSpace)), st.integers(1, 70), st.integers(1, 70), st.integers(0, 1000))
def test_chunks_and_steps_continue_a_state_exactly(space: StateSpace, first: int, second: int, seed: int) -> None:
    kernel = kernel_of(space, seed=seed)
    u = torch.randn(1, first + second, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = plain(kernel, u[0])
        space_ = kernel.sampled()
        empty = torch.zeros(1, *space_.transition.shape, dtype=space_.transition.dtype)
        h = absorb(space_, empty, u[:, :first])
        own = functional.conv1d(
            functional.pad(u[:, first:].transpose(1, 2), (second - 1, 0)), kernel(second).flip(1).unsqueeze(1), groups=3
        )
        torch.testing.assert_close(
            (respond(space_, h, second) + own.transpose(1, 2))[0], expected[first:], rtol=1e-9, atol=1e-10
        )
        for t in range(second):
            y, h = advance(space_, h, u[:, first + t])
            torch.testing.assert_close(y[0], expected[first + t], rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(absorb(space_, empty, u), h, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(restored(stored(h), kernel.modes.paired), h, rtol=0, atol=0)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(StateSpace)), st.integers(1, 300))
def test_the_two_tables_give_every_power(space: StateSpace, length: int) -> None:
    space_ = kernel_of(space).sampled()
    lags = torch.arange(length, dtype=torch.float64)
    direct = (space_.readout[..., None] * torch.exp(space_.exponent[..., None] * lags)).sum(-2)
    direct = direct.real if direct.is_complex() else direct
    torch.testing.assert_close(s4d_kernel(space_.exponent, space_.readout, length), direct, rtol=1e-10, atol=1e-11)


def test_initial_modes_and_steps() -> None:
    """S4D-Lin: A_n = -1/2 + iπn; S4D-Real: A_n = -(n + 1); Δ log-uniform in (0.001, 0.1) (Gu et al. 2022)."""
    lin, real = (StateSpaceKernel(space, 2048, 16) for space in (StateSpace.LIN, StateSpace.REAL))
    n = torch.arange(8, dtype=torch.float64)
    torch.testing.assert_close(
        lin.modes()[5], torch.complex(torch.full((8,), -0.5).double(), pi * n), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(real.modes()[7], -(torch.arange(16).double() + 1), rtol=1e-6, atol=1e-6)
    steps = lin.step_size().detach()
    place = ((steps.log() - log(1e-3)) / (log(0.1) - log(1e-3))).sort().values
    assert float(place.min()) > -1e-3
    assert float(place.max()) < 1 + 1e-3
    # Kolmogorov and Smirnov's distance to the uniform distribution; above 0.043 at n = 2048 with probability 0.001.
    assert float((place - (torch.arange(2048) + 0.5) / 2048).abs().max()) < 0.043


def test_a_b_and_step_sizes_have_a_learning_rate_of_their_own_and_no_decay() -> None:
    model = LanguageModel.from_genome(unconnected([20, 21, 22]), pool=POOL, width=32, vocab_size=9)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, weight_decay=0.1, state_space_ratio=0.25)
    slow = {names[id(p)] for group in groups if group["learning_rate_ratio"] == 0.25 for p in group["params"]}
    endings = ("log_decay", "frequency", "step_size.value", "drive.value", "groups.delta.value", "groups.B.value")
    expected = {name for name in names.values() if "livs" in name and name.endswith(endings)}
    constants = {name for name in expected if name.endswith("groups.B.value") and "livs.1" not in name}
    assert slow == expected - constants  # the B of S4-1 is a scale of the input, not of a state space
    assert all(group["weight_decay"] == 0 for group in groups if group["learning_rate_ratio"] != 1)
    assert sum(len(group["params"]) for group in groups) == len(names)


@pytest.mark.parametrize("liv", [20, 21, 22])
def test_token_by_token_is_the_whole_sequence_far_from_the_start(liv: int) -> None:
    """Float32, 4,096 tokens as one chunk and then 64 single steps, against the parallel pass in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        backbone = Backbone(unconnected([liv]), POOL, width=32, length=4096)
        x = torch.randn(1, 4160, 32)
    with torch.no_grad():
        state = backbone.init_state(1, 4160)
        backbone(x[:, :4096], state)
        steps = torch.cat([backbone(x[:, t : t + 1], state) for t in range(4096, 4160)], 1)
        exact = backbone.double()(x.double())[:, 4096:]
    torch.testing.assert_close(steps.double(), exact, rtol=1e-4, atol=1e-4)


@both_spaces
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_a_liquid_state_space_stays_bounded_for_65536_tokens(space: StateSpace, size: float) -> None:
    """Any input, the worst one (constant, of either sign) included, weights far from their start."""
    row = POOL[21].from_dict({**POOL[21].to_dict(), "state_space": space.value})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        liv = LIV(row, 16, 64)
        mixer, featurizer = liv.operators[0].mixer, liv.operators[0].featurizer
        with torch.no_grad():
            for parameter in (*mixer.modes.parameters(), *featurizer.groups["B"].parameters()):
                parameter.mul_(1 + 3 * torch.rand_like(parameter))
        inputs = [torch.randn(1, LONG, 16), torch.ones(1, LONG, 16), -torch.ones(1, LONG, 16)]
    decay, drive, readout = mixer.sampled(featurizer, torch.float32)
    for u in inputs:
        u = torch.tanh(size * u)
        with torch.no_grad():
            y, last = liquid_scan(u, decay, drive, readout, decay.new_zeros((1, *decay.shape)))
        assert y.isfinite().all()
        assert float(last.abs().max()) <= 9.0001
        assert float((decay + drive * u[:, -1, :, None]).detach().abs().max()) < 1


def test_a_liquid_state_space_is_the_recurrence_written_out() -> None:
    """x_t = (Ā + B̄ u_t) x_{t-1} + B̄ u_t with the same B̄ in both places, and nothing ahead of t."""
    for space in StateSpace:
        row = POOL[21].from_dict({**POOL[21].to_dict(), "state_space": space.value})
        liv = LIV(row, 16, 64).double()
        operator = liv.operators[0]
        x = torch.randn(2, 40, 16, dtype=torch.float64)
        with torch.no_grad():
            features = operator.features(x, Call(), None)
            decay, drive, readout = operator.mixer.sampled(operator.featurizer, torch.float64)
            u, h, outputs = torch.tanh(features["v"]), torch.zeros(2, *decay.shape, dtype=decay.dtype), []
            for t in range(40):
                h = (decay + drive * u[:, t, :, None]) * h + drive * u[:, t, :, None]
                outputs.append((readout * h).sum(-1).real + operator.mixer.D * u[:, t])
            expected = operator.output(torch.stack(outputs, 1) * features["z"])
            torch.testing.assert_close(liv(x), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_scans_have_the_gradients_of_the_loop(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    decay, value = (torch.randn(37, 2, 3, dtype=dtype, generator=generator) * 0.6 for _ in range(2))
    state, weights = (torch.randn(*shape, dtype=dtype, generator=generator) for shape in ((2, 3), (37, 2, 3)))
    found = []
    for scan in (linear_scan, _loop):
        inputs = [tensor.clone().requires_grad_() for tensor in (decay, value, state)]
        output = scan(*inputs)
        loss = (output * weights).sum()
        found.append([output, *torch.autograd.grad(loss.real if loss.is_complex() else loss, inputs)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def _loop(decay: Tensor, value: Tensor, state: Tensor) -> Tensor:
    outputs = []
    for a, b in zip(decay, value, strict=True):
        state = a * state + b
        outputs.append(state)
    return torch.stack(outputs)


@pytest.mark.parametrize("space", list(StateSpace))
def test_segments_of_a_long_liquid_scan_have_the_gradients_of_one(
    space: StateSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from star.liv.kernels import scan

    row = POOL[21].from_dict({**POOL[21].to_dict(), "state_space": space.value})
    liv = LIV(row, 16, 64).double()
    x = torch.randn(2, 200, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for elements in (1 << 19, 1):
        monkeypatch.setattr(scan, "SEGMENT_ELEMENTS", elements)
        assert (scan.segment_length(1) < x.shape[1]) == (elements == 1)
        output = liv(x)
        found.append([output, *torch.autograd.grad(output.square().sum(), list(liv.parameters()))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_shared_kernel_is_one_state_space() -> None:
    """Strategy 2 of S4-1 shares K: one set of parameters, but a state for each LIV, for they read different inputs."""
    model = LanguageModel.from_genome(
        BackboneGenome.parse("20.1.1.1.1 20.1.1.1.2"), pool=POOL, width=32, vocab_size=9, seed=0
    )
    first, second = (liv.operators[0].featurizer.groups["K"] for liv in model.backbone.livs)
    assert first is second
    state = model.init_state(1, 4)
    with torch.no_grad():
        model(torch.zeros(1, 3, dtype=torch.long), state)
    assert not torch.equal(state.livs[0][0]["h"], state.livs[1][0]["h"])
