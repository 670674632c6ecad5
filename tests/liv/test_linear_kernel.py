"""Linear attention in chunks is the quadratic sum, outputs and gradients, at any length and head size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from star.liv.kernels import linear_attention as kernel
from star.liv.kernels.linear_attention import linear_attention


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).tril() @ v


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 16),
    st.sampled_from([0.0, 1e-30, 1.0, 1e30]),
    st.integers(0, 99),
)
def test_outputs_and_gradients(length: int, size: int, values: int, chunk: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 3, length, width) for width in (size, size, values, values)]
    q, k, v, weights = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)
    # Heads split from channels, as a LIV has them: not contiguous.
    q, k, v = (tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (scale * q, k, v))
    leaves = [tensor.requires_grad_() for tensor in (q, k, v)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "SHORTEST_CHUNK", chunk)
        found, wanted = (
            [y, *torch.autograd.grad((y * weights).sum(), leaves)] for y in (linear_attention(*leaves), plain(*leaves))
        )
    for one, other in zip(found, wanted, strict=True):
        reach = float(other.detach().abs().max()) + 1e-300
        torch.testing.assert_close(one / reach, other / reach, rtol=1e-11, atol=1e-11)


def test_float32_over_a_long_sequence() -> None:
    q, k, v = (torch.randn(1, 2, 4096, 16, generator=torch.Generator().manual_seed(n)) for n in range(3))
    exact = plain(q.double(), k.double(), v.double())
    assert float((linear_attention(q, k, v).double() - exact).norm() / exact.norm()) < 1e-6
