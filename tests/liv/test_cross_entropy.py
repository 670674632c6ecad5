"""The loss without logits is the cross-entropy of the logits, with its gradients, whatever the chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from star import LanguageModel
from star.liv.kernels import cross_entropy
from star.liv.kernels.cross_entropy import head_cross_entropy

SAME = 1 << 17


def plain(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(x @ weight.t(), targets)


def inputs(tokens: int, width: int, vocab: int, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, weight = (torch.randn(n, width, dtype=torch.float64, generator=generator) for n in (tokens, vocab))
    return scale * x, weight, torch.randint(0, vocab, (tokens,), generator=generator)


def gradients(loss: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(3 * loss, leaves)


@pytest.mark.parametrize(("tokens", "vocab"), [(1, 1), (1, 9), (127, 5), (128, 5), (300, 257), (1000, 3)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
def test_outputs_and_gradients(tokens: int, vocab: int, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CACHED", 0)
    x, weight, targets = inputs(tokens, 7, vocab, scale)
    x.requires_grad_(), weight.requires_grad_()
    ours, expected = (loss(x, weight, targets) for loss in (head_cross_entropy, plain))
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(gradients(ours, x, weight), gradients(expected, x, weight), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_gradcheck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CACHED", 0)
    monkeypatch.setattr(cross_entropy, "SHORTEST", 4)
    x, weight, targets = inputs(9, 3, 5)
    x.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, weight: head_cross_entropy(x, weight, targets), (x, weight))


@pytest.mark.parametrize("vocab", [257, 4096, 32768])
def test_float32_is_as_near_to_float64_as_the_plain_form(vocab: int) -> None:
    x, weight, targets = inputs(600, 32, vocab)
    exact = gradients(plain(x.requires_grad_(), weight.requires_grad_(), targets), x, weight)
    single = [tensor.detach().float().requires_grad_() for tensor in (x, weight)]
    errors = []
    for loss in (head_cross_entropy, plain):
        value = loss(single[0], single[1], targets)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), plain(x, weight, targets), rtol=1e-6, atol=0)
        found = gradients(value, *single)
        errors.append([float((one - other).norm() / other.norm()) for one, other in zip(found, exact, strict=True)])
    assert all(ours < 2 * theirs + 1e-7 for ours, theirs in zip(*errors, strict=True))


def test_one_of_the_two_may_be_fixed_and_nothing_is_kept_without_gradients() -> None:
    x, weight, targets = inputs(40, 5, 11)
    for fixed in (0, 1):
        leaves = [tensor.clone().requires_grad_(place != fixed) for place, tensor in enumerate((x, weight))]
        found = [gradients(loss(*leaves, targets), leaves[1 - fixed])[0] for loss in (head_cross_entropy, plain)]
        torch.testing.assert_close(*found, rtol=1e-11, atol=1e-12)
    with torch.no_grad():
        value = head_cross_entropy(x.requires_grad_(), weight, targets)
    assert not value.requires_grad
    torch.testing.assert_close(value, plain(x, weight, targets), rtol=1e-12, atol=0)


def test_a_gradient_of_the_gradient_is_refused() -> None:
    x, weight, targets = inputs(4, 3, 5)
    x.requires_grad_()
    (first,) = torch.autograd.grad(head_cross_entropy(x, weight, targets).square(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate"):
        first.sum().backward()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_shows_in_the_loss(value: float) -> None:
    x, weight, targets = inputs(300, 3, 5)
    x[200, 1] = value
    assert not head_cross_entropy(x, weight, targets).isfinite()


def test_sums_under_autocast_are_float32() -> None:
    """131,072 equal tokens each add the same to the gradient of W; a running sum in bf16 would soon stop growing."""
    x, weight, targets = inputs(1, 16, 9)
    x, targets = x.float().repeat(SAME, 1), targets.repeat(SAME)
    single = [x.requires_grad_(), weight.float().requires_grad_()]
    with torch.autocast("cpu", torch.bfloat16):
        value = head_cross_entropy(*single, targets)
    assert value.dtype == torch.float32
    found = torch.autograd.grad(value, single)
    expected = torch.autograd.grad(plain(*single, targets), single)
    torch.testing.assert_close(value, plain(*single, targets), rtol=0.02, atol=0.02)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < 0.02


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_of_a_model(tied: bool) -> None:
    model = LanguageModel.from_genome("11111 91111", width=16, vocab_size=29, tie_embeddings=tied, seed=0).double()
    tokens = torch.randint(0, 29, (2, 2, 50), generator=torch.Generator().manual_seed(0))
    expected = functional.cross_entropy(model(tokens[0]).flatten(0, 1), tokens[1].flatten())
    ours = model.loss(tokens[0], tokens[1])
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    parameters = list(model.parameters())
    for one, other in zip(gradients(ours, *parameters), gradients(expected, *parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    first, second = (gradients(model.loss(tokens[0], tokens[1]), *parameters) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_bf16_models() -> None:
    model = LanguageModel.from_genome("11111", width=16, vocab_size=29, seed=0)
    tokens = torch.randint(0, 29, (2, 2, 50), generator=torch.Generator().manual_seed(0))
    exact = model.loss(tokens[0], tokens[1]).detach()
    loss = model.bfloat16().loss(tokens[0], tokens[1])
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.detach(), exact, rtol=0.02, atol=0)
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.bfloat16 for p in model.parameters())
