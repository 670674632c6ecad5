"""Linear attention in chunks is the quadratic sum, outputs and gradients, at any length and head size, in PyTorch and
in C++."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_marks import NEEDS_COMPILER, implementations
from torch import Tensor

from star.liv.kernels import Implementation, forced
from star.liv.kernels import linear_attention as kernel
from star.liv.kernels.linear_attention import LINEAR_ATTENTION, linear_attention


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


def heads(batch: int, count: int, length: int, *sizes: int, seed: int = 0) -> list[Tensor]:
    """Tensors [B, H, ℓ, size], laid out as the mixer has them."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, length, count, size, generator=generator).transpose(1, 2) for size in sizes]


def outputs_and_gradients(q: Tensor, k: Tensor, v: Tensor, weights: Tensor) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in (q, k, v)]
    y = linear_attention(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, weights)]


@implementations
@pytest.mark.parametrize(("length", "size"), [(4096, 64), (65_536, 16)])
@pytest.mark.parametrize("sign", [Tensor.abs, Tensor.clone], ids=["positive", "of both signs"])
def test_errors_do_not_grow_with_the_length(
    implementation: Implementation, length: int, size: int, sign: Callable[[Tensor], Tensor]
) -> None:
    """Close to the rounding of a float32 also where sums grow from token to token."""
    inputs = [sign(one) for one in heads(1, 1, length, *4 * [size])]
    with forced("portable"):
        expected = outputs_and_gradients(*(one.double() for one in inputs))
    with forced(implementation):
        found = outputs_and_gradients(*inputs)
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm() / other.norm()) < 3e-7


@implementations
@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 200])
@pytest.mark.parametrize(("keys", "values"), [(16, 16), (32, 80), (64, 64), (112, 16), (256, 128)])
def test_lengths_that_fill_no_chunk(implementation: Implementation, length: int, keys: int, values: int) -> None:
    inputs = heads(2, 3, length, keys, keys, values, values)
    with forced(implementation):
        assert LINEAR_ATTENTION.chosen(*inputs[:3]) is implementation
        found = outputs_and_gradients(*inputs)
    with forced("reference"):
        expected = outputs_and_gradients(*inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6 * float(other.abs().max()))


@implementations
@settings(max_examples=50, deadline=None)
@given(st.integers(1, 100), st.integers(0, 99), st.sampled_from([1.0, 1e30]), st.integers(0, 99))
def test_no_token_sees_a_later_one(
    implementation: Implementation, length: int, cut: int, scale: float, seed: int
) -> None:
    """To the last bit, forward; and backward no gradient comes from an earlier token than one's own."""
    cut %= length
    inputs, others = (heads(1, 2, length, 16, 16, 32, 32, seed=number) for number in (seed, seed + 100))
    mixed = [
        torch.cat([one[:, :, :cut], scale * other[:, :, cut:]], 2) for one, other in zip(inputs, others, strict=True)
    ]
    late = [*inputs[:3], torch.cat([scale * others[3][:, :, :cut], inputs[3][:, :, cut:]], 2)]
    with forced(implementation):
        y, *gradients = outputs_and_gradients(*inputs)
        assert torch.equal(outputs_and_gradients(*mixed)[0][:, :, :cut], y[:, :, :cut])
        _, _, d_k, d_v = outputs_and_gradients(*late)
    for one, other in zip((d_k, d_v), gradients[1:], strict=True):
        assert torch.equal(one[:, :, cut:], other[:, :, cut:])


@implementations
def test_views_are_read_where_they_lie(implementation: Implementation) -> None:
    """Parts of one projection, one head for all, elements far apart, and a gradient that is one number."""
    q, k, v = torch.randn(2, 70, 3 * 64, generator=torch.Generator().manual_seed(0)).unflatten(2, (3, 4, 16)).unbind(2)
    views = [q.transpose(1, 2), k.transpose(1, 2)[:, :1].expand(-1, 4, -1, -1), v.transpose(1, 2).contiguous()]
    far = [torch.stack([view, view], dim=-1)[..., 0] for view in views]
    expected = outputs_and_gradients(*(view.double() for view in views), torch.ones(2, 4, 70, 16).double())
    with forced(implementation):
        for inputs in (views, far):
            found = outputs_and_gradients(*inputs, torch.ones(1, 1, 1, 1).expand(2, 4, 70, 16))
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one.double(), other, rtol=0, atol=2e-6 * float(other.abs().max()))


@NEEDS_COMPILER
@pytest.mark.parametrize(("batch", "count", "size"), [(1, 1, 64), (1, 7, 64), (3, 5, 32), (1, 30, 64), (2, 3, 256)])
def test_heads_in_turns_or_in_threads_are_the_same_to_the_last_bit(batch: int, count: int, size: int) -> None:
    """With one thread many heads take turns; with more, few. Each is also what it is alone."""
    inputs = heads(batch, count, 70, *4 * [size])
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with forced("native"):
                found.append(outputs_and_gradients(*inputs))
                alone = [outputs_and_gradients(*(one[:, head : head + 1] for one in inputs)) for head in range(count)]
                found.append([torch.cat(parts, 1) for parts in zip(*alone, strict=True)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for again in found[1:] for one, other in zip(found[0], again, strict=True))


@NEEDS_COMPILER
def test_results_lie_as_projections_have_them() -> None:
    """So that the output map, and the backward passes of the projections, copy nothing."""
    with forced("native"):
        results = outputs_and_gradients(*heads(2, 4, 40, 16, 16, 32, 32))
    assert all(result.transpose(1, 2).is_contiguous() for result in results)


@NEEDS_COMPILER
def test_native_runs_where_heads_are_whole_registers() -> None:
    def chosen(keys: int, values: int, dtype: torch.dtype = torch.float32) -> Implementation:
        return LINEAR_ATTENTION.chosen(*(one.to(dtype) for one in heads(1, 2, 5, keys, keys, values)))

    assert {chosen(16, 16), chosen(64, 48), chosen(256, 16)} == {Implementation.NATIVE}
    assert {chosen(8, 16), chosen(16, 24), chosen(272, 16), chosen(16, 16, torch.float64)} == {Implementation.PORTABLE}
