"""The parallel scan, convolutions and rotary phases against what they are, written out, in float64."""

from __future__ import annotations

import pytest
import torch

from star.liv.kernels import scan
from star.liv.kernels.convolution import short_convolution
from star.liv.kernels.long_convolution import long_convolution
from star.liv.kernels.rotary import rotate


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("elements", [3, scan.LARGE_STEP])
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 31, 32, 33, 300, 515])
def test_scan_is_the_recurrence(length: int, elements: int, reverse: bool) -> None:
    torch.manual_seed(length)
    decay, value = torch.rand(length, elements, dtype=torch.float64), torch.randn(length, elements, dtype=torch.float64)
    expected, h = torch.empty_like(value), torch.zeros(elements, dtype=torch.float64)
    for t in reversed(range(length)) if reverse else range(length):
        h = decay[t] * h + value[t]
        expected[t] = h
    decay[-1 if reverse else 0] = torch.nan  # there is no h before it
    given = decay.clone()
    scan.scan_(decay, value, reverse=reverse)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(decay, given, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("elements", [3, scan.LARGE_STEP])
def test_a_scan_of_memory_that_is_used_again(elements: int, reverse: bool) -> None:
    """A part of it, after all of it."""
    torch.manual_seed(0)
    decay, value = torch.empty(40, elements, dtype=torch.float64), torch.empty(40, elements, dtype=torch.float64)
    again = scan.Scan(decay, value, reverse=reverse)
    for length in (40, 1, 17):
        decay[:length], value[:length] = torch.rand(length, elements), torch.randn(length, elements)
        expected = value[:length].clone()
        scan.scan_(decay[:length], expected, reverse=reverse)
        again(length)
        assert torch.equal(value[:length], expected)


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
