"""Monarch matrices: two block-diagonal factors that reach every entry, with the variance of a dense layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from star.liv.maps import Dense, Monarch


def written_out(layer: Monarch) -> Tensor:
    """The matrix, from its definition: R by blocks, the permutation, L by blocks."""
    right = torch.block_diag(*(block.t() for block in layer.right.detach()))
    k, _, q = layer.right.shape
    permuted = right.unflatten(0, (k, q)).transpose(0, 1).flatten(0, 1)
    left = torch.block_diag(*(block.t() for block in layer.weight.detach()))
    return left @ permuted


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60))
def test_any_width_is_the_product_of_its_factors(inputs: int, outputs: int) -> None:
    layer = Monarch(inputs, outputs).double()
    x = torch.randn(2, 3, inputs, dtype=torch.float64)
    matrix = written_out(layer)
    assert matrix.shape == (outputs, inputs)
    torch.testing.assert_close(layer(x), x @ matrix.t(), rtol=1e-10, atol=1e-12)
    assert (matrix != 0).all()  # every output sees every input


@pytest.mark.parametrize("width", [64, 256, 768, 2048])
def test_a_square_map_has_about_two_d_to_the_three_halves_weights(width: int) -> None:
    count = sum(parameter.numel() for parameter in Monarch(width, width).parameters())
    assert 1.4 * width**1.5 <= count <= 2 * width**1.5


@pytest.mark.parametrize(("inputs", "outputs"), [(256, 256), (768, 768), (96, 640)])
def test_it_starts_with_the_variance_of_a_dense_layer(inputs: int, outputs: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(512, inputs)
        spread = [
            torch.stack([make(inputs, outputs)(x).detach().var() for _ in range(20)]).mean()
            for make in (Monarch, Dense)
        ]
    assert float(spread[0] / spread[1]) == pytest.approx(1, abs=0.1)
