"""The parallel scan against the recurrence written out, outputs and gradients, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from star.liv.kernels import scan
from star.liv.kernels.convolution import long_convolution, short_convolution
from star.liv.kernels.rotary import rotate


def selective_scan_by_steps(
    x: Tensor, delta: Tensor, decay: Tensor, b: Tensor, c: Tensor, state: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    outputs = []
    for t in range(x.shape[1]):
        a = torch.exp(delta[:, t, None, :] * decay.t())
        if keep is not None:
            a = a * keep[0, t]
        state = a * state + b[:, t, :, None] * (delta[:, t] * x[:, t])[:, None, :]
        outputs.append((c[:, t, :, None] * state).sum(1))
    return torch.stack(outputs, 1), state


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 31, 32, 33, 300, 515])
def test_scan_is_the_recurrence(length: int, reverse: bool) -> None:
    torch.manual_seed(length)
    decay, value = torch.rand(length, 3, dtype=torch.float64), torch.randn(length, 3, dtype=torch.float64)
    expected, h = torch.empty_like(value), torch.zeros(3, dtype=torch.float64)
    for t in reversed(range(length)) if reverse else range(length):
        h = decay[t] * h + value[t]
        expected[t] = h
    total = decay.prod(0)
    scan.scan_(decay, value, reverse=reverse)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(decay[0 if reverse else -1], total, rtol=1e-12, atol=0)


@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize(("length", "states"), [(1, 4), (2, 1), (40, 16), (129, 2)])
def test_selective_scan_outputs_and_gradients(
    length: int, states: int, forget: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "SEGMENT_ELEMENTS", 2 * 5 * states * 48)  # several segments at these small sizes
    torch.manual_seed(0)
    double = {"dtype": torch.float64}
    x, delta = torch.randn(2, length, 5, **double), torch.rand(2, length, 5, **double)
    b, c = torch.randn(2, length, states, **double), torch.randn(2, length, states, **double)
    decay, state = -torch.rand(5, states, **double) * 3, torch.randn(2, states, 5, **double)
    keep = (torch.arange(length) % 7 != 0).double().unsqueeze(0) if forget else None
    inputs = [tensor.requires_grad_() for tensor in (x, delta, decay, b, c, state)]
    weights = [torch.randn(2, length, 5, **double), torch.randn(2, states, 5, **double)]

    def gradients(outputs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(sum((o * w).sum() for o, w in zip(outputs, weights, strict=True)), inputs)

    ours = scan.selective_scan(*inputs, keep)
    theirs = selective_scan_by_steps(*inputs, keep)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    for one, other in zip(gradients(ours), gradients(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_selective_scan_survives_strong_decay_and_long_sequences() -> None:
    length = 65_536
    x = torch.randn(1, length, 2)
    delta = torch.full((1, length, 2), 50.0).requires_grad_()
    ones = torch.ones(1, length, 1)
    y, _ = scan.selective_scan(x, delta, torch.full((2, 1), -30.0), ones, ones, torch.zeros(1, 1, 2))
    y.sum().backward()
    torch.testing.assert_close(y, 50 * x)
    assert delta.grad is not None
    assert delta.grad.isfinite().all()


@pytest.mark.parametrize("length", [1, 2, 3, 64, 101])
def test_long_convolution_is_the_direct_one(length: int) -> None:
    torch.manual_seed(0)
    x, kernel = torch.randn(2, length, 3, dtype=torch.float64), torch.randn(3, length, dtype=torch.float64)
    direct = torch.stack([sum(kernel[:, s] * x[:, t - s] for s in range(t + 1)) for t in range(length)], 1)
    torch.testing.assert_close(long_convolution(x, kernel), direct, rtol=1e-10, atol=1e-10)


def test_short_convolution_is_torch_conv1d() -> None:
    x, weight = torch.randn(2, 9, 4, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    padded = torch.nn.functional.pad(x.transpose(1, 2), (2, 0))
    expected = torch.nn.functional.conv1d(padded, weight.unsqueeze(1), groups=4).transpose(1, 2)
    torch.testing.assert_close(short_convolution(x, weight), expected)


def test_rotary_scores_depend_on_distance_only() -> None:
    q, k = torch.randn(1, 1, 1, 8, dtype=torch.float64), torch.randn(1, 1, 1, 8, dtype=torch.float64)
    scores = [(rotate(q, 5 + shift) * rotate(k, 2 + shift)).sum() for shift in (0, 1, 100, 60_000)]
    for score in scores[1:]:
        torch.testing.assert_close(score, scores[0], rtol=1e-9, atol=1e-9)
    assert not torch.isclose((rotate(q, 6) * rotate(k, 2)).sum(), scores[0])
