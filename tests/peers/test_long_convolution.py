"""The implicit long convolution (GConv-2) against the direct sum, and its kernel against the formula, in float64.

Ours convolves by FFT, or with the stored past token by token; the reference sums over every pair of positions.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from one_liv import backbone_of, check_cached, check_outputs_and_gradients, normed, random_input
from torch import Tensor
from torch.nn import functional

from star.backbone import Backbone
from star.genome import OptionPool

WIDTH = 16
GCONV = {"explicit": OptionPool.paper()[7], "implicit": OptionPool.paper()[8]}


def short(x: Tensor, taps: Tensor) -> Tensor:
    """Depthwise causal convolution by torch's own."""
    count, channels = taps.shape[1], taps.shape[0]
    return functional.conv1d(functional.pad(x.mT, (count - 1, 0)), taps.unsqueeze(1), groups=channels).mT


def direct(backbone: Backbone, x: Tensor) -> Tensor:
    """x + W_o (C ⊙ Σ_{j ≤ i} K_{i-j} ⊙ B_j ⊙ x_j), one pair of positions at a time."""
    operator = backbone.livs[0].operators[0]
    groups, length = operator.featurizer.groups, x.shape[1]
    inputs = normed(backbone, x)
    gate, u = short(inputs, groups["C"].taps), short(inputs, groups["B"].taps) * inputs
    kernel = groups["K"](length)
    outputs = []
    for i in range(length):
        terms = [kernel[:, i - j] * u[:, j] for j in range(i + 1) if i - j < kernel.shape[1]]
        outputs.append(gate[:, i] * torch.stack(terms).sum(0))
    return x + torch.stack(outputs, 1) @ operator.output.weight.t()


@pytest.mark.parametrize("length", [1, 2, 3, 31, 100])
@pytest.mark.parametrize("name", GCONV)
def test_outputs_and_gradients(name: str, length: int) -> None:
    backbone = backbone_of(GCONV[name], WIDTH)
    check_outputs_and_gradients(backbone, lambda x: direct(backbone, x), random_input(2, length, WIDTH))


@pytest.mark.parametrize("name", GCONV)
def test_cached(name: str) -> None:
    backbone = backbone_of(GCONV[name], WIDTH)
    check_cached(backbone, lambda x: direct(backbone, x), random_input(2, 100, WIDTH))


@pytest.mark.parametrize("name", GCONV)
def test_left_padding(name: str) -> None:
    backbone = backbone_of(GCONV[name], WIDTH)
    x, pads = random_input(2, 60, WIDTH), 23
    mask = torch.ones(2, 60, dtype=torch.bool)
    mask[0, :pads] = False
    with torch.no_grad():
        ours = backbone(x, mask=mask)
        torch.testing.assert_close(ours[:1, pads:], direct(backbone, x[:1, pads:]), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(ours[1:], direct(backbone, x[1:]), rtol=1e-11, atol=1e-11)


def test_float32_stays_close() -> None:
    backbone = backbone_of(GCONV["implicit"], WIDTH)
    x = random_input(1, 300, WIDTH)
    with torch.no_grad():
        expected = direct(backbone, x)
        single = backbone.float()(x.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("built_for", "lags"), [(64, 64), (64, 150), (1000, 20)])
def test_the_kernel_is_its_formula(built_for: int, lags: int) -> None:
    """K_t = (W₃ sin(ω ⊙ …sin(ω ⊙ (W₀ z_t + b₀))…)) · exp(-r t/L), z_t = (t/L, cos, sin of 2πt/L and of 4πt/L); the
    rates r run evenly from the one that decays to 1% at 1.5 L to the one that does at 0.3 L; the present token has a
    weight of its own on top. Written in numpy, channel by channel and lag by lag."""
    kernel = backbone_of(GCONV["implicit"], WIDTH, built_for).livs[0].operators[0].featurizer.groups["K"]
    torch.nn.init.uniform_(kernel.frequency, 0.5, 2.0)
    torch.nn.init.uniform_(kernel.present, -1.0, 1.0)
    own = {name: parameter.detach().numpy() for name, parameter in kernel.named_parameters()}
    expected = np.empty((WIDTH, lags))
    for t in range(lags):
        time = t / built_for
        angles = 2 * np.pi * time * np.array([1, 2])
        hidden = np.array([time, np.cos(angles[0]), np.sin(angles[0]), np.cos(angles[1]), np.sin(angles[1])])
        for layer in ("first", "second", "third"):
            hidden = np.sin(own["frequency"] * (own[f"{layer}.weight"] @ hidden + own[f"{layer}.bias"]))
        for channel in range(WIDTH):
            slow, fast = np.log(100) / 1.5, np.log(100) / 0.3
            rate = slow + (fast - slow) * channel / (WIDTH - 1)
            expected[channel, t] = own["last"][channel] @ hidden * np.exp(-rate * time)
    expected[:, 0] += own["present"]
    np.testing.assert_allclose(kernel(lags).detach().numpy(), expected, rtol=1e-11, atol=1e-13)
