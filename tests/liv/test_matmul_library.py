"""Float32 products go to oneDNN only within a block that asks for it, and are known to be float32 there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from star.genome import OptionPool
from star.liv.kernels import forced, matmul, sdpa
from star.liv.kernels.matmul import Probe, by_onednn, goes_to_onednn, probe, probed
from star.liv.kernels.sdpa import dot_product_attention
from star.lm import LanguageModel

NEEDS_SETTING = pytest.mark.skipif(matmul.SETTING is None, reason="this PyTorch cannot send products to oneDNN")
Multiply = Callable[[Tensor, Tensor], Tensor]


@NEEDS_SETTING
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_blocks_within_blocks_give_back_what_was_set(first: bool, second: bool) -> None:
    before = matmul.SETTING.fp32_precision
    with by_onednn(first):
        assert goes_to_onednn() is first
        with by_onednn(second):
            assert goes_to_onednn() is second
        assert goes_to_onednn() is first
    assert matmul.SETTING.fp32_precision == before


@NEEDS_SETTING
def test_an_error_leaves_nothing_behind() -> None:
    before = matmul.SETTING.fp32_precision
    with pytest.raises(ZeroDivisionError), by_onednn(True):
        raise ZeroDivisionError
    assert matmul.SETTING.fp32_precision == before


@NEEDS_SETTING
@pytest.mark.parametrize("own", ["bf16", "tf32", "ieee"])
def test_what_the_caller_has_chosen_comes_back(own: str) -> None:
    before = matmul.SETTING.fp32_precision
    try:
        matmul.SETTING.fp32_precision = own
        with by_onednn(own != "bf16"):
            assert goes_to_onednn() is (own != "bf16")
        assert matmul.SETTING.fp32_precision == own
    finally:
        matmul.SETTING.fp32_precision = before


@NEEDS_SETTING
def test_what_was_inherited_is_inherited_again() -> None:
    before = torch.backends.fp32_precision
    try:
        with by_onednn(True):
            pass
        torch.backends.fp32_precision = "tf32"
        assert matmul.SETTING.fp32_precision == "tf32"
    finally:
        torch.backends.fp32_precision = before


def in_bf16(a: Tensor, b: Tensor) -> Tensor:
    return a.bfloat16().float() @ b.bfloat16().float()


def wrong_by_onednn(multiply: Multiply, where: Callable[[Tensor, Tensor], bool] = lambda a, b: True) -> Multiply:
    """A product that is right but for oneDNN, and there wrong only `where` it is said to be, whatever this CPU does."""

    def product(a: Tensor, b: Tensor) -> Tensor:
        wrong = goes_to_onednn() and where(a, b)
        with by_onednn(False):
            return multiply(a, b) if wrong else a @ b

    return product


@NEEDS_SETTING
@pytest.mark.parametrize(
    "multiply",
    [
        wrong_by_onednn(in_bf16),
        wrong_by_onednn(in_bf16, lambda a, b: a.ndim == 3),
        wrong_by_onednn(in_bf16, lambda a, b: not a.is_contiguous()),
        wrong_by_onednn(in_bf16, lambda a, b: not b.is_contiguous()),
        wrong_by_onednn(in_bf16, lambda a, b: a.shape[-2] % 16 == 0),
        wrong_by_onednn(lambda a, b: a.half().float() @ b),  # its smallest and largest values are lost
        wrong_by_onednn(lambda a, b: (a.view(torch.int32) & ~0x1FFF).view(torch.float32) @ b),  # tf32
        wrong_by_onednn(lambda a, b: (a @ b) * torch.nan),
        wrong_by_onednn(lambda a, b: torch.zeros_like(a @ b)),
    ],
)
def test_the_probe_refuses_what_is_not_float32(multiply: Multiply) -> None:
    found = probed(multiply)
    assert not found.is_float32
    assert "does not multiply in float32" in str(found)
    assert found.default < 1e-5


@NEEDS_SETTING
def test_the_probe_accepts_float32_that_is_summed_in_another_order() -> None:
    def halves(a: Tensor, b: Tensor) -> Tensor:
        middle = a.shape[-1] // 2
        return a[..., middle:] @ b[..., middle:, :] + a[..., :middle] @ b[..., :middle, :]

    found = probed(wrong_by_onednn(halves))
    assert found.is_float32
    assert "multiplies in float32" in str(found)


def test_the_probe_is_not_disturbed_by_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert probed().default < 1e-5


def test_a_pytorch_without_the_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "SETTING", None)
    found = probed()
    assert found.onednn is None
    assert not found.is_float32
    assert str(found) == "this PyTorch cannot send products to oneDNN"
    with by_onednn(True):
        assert not goes_to_onednn()


def test_no_number_is_no_float32() -> None:
    assert not Probe(4e-7, float("nan")).is_float32
    assert Probe(4e-7, 4e-7).is_float32


class Spy:
    """Stands in for PyTorch's attention, and notes where products go when it runs, forward and backward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.forward, self.backward, self.own = list[bool](), list[bool](), functional.scaled_dot_product_attention
        monkeypatch.setattr(functional, "scaled_dot_product_attention", self)

    def __call__(self, *inputs: Tensor, **settings: object) -> Tensor:
        self.forward.append(goes_to_onednn())
        y = self.own(*inputs, **settings)  # type: ignore[arg-type]
        if y.requires_grad:
            y.register_hook(lambda _: self.backward.append(goes_to_onednn()))
        return y


@NEEDS_SETTING
@pytest.mark.parametrize("genome", ["11111 91111 31111", "19.1.1.1.1 9.1.1.1.1 12.1.1.1.1"])
def test_products_inside_attention_never_go_to_onednn(genome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All others of a model do: also those on the way back through its maps, after attention."""
    spy, seen = Spy(monkeypatch), list[bool]()
    model = LanguageModel.from_genome(genome, pool=OptionPool.full(), width=32, vocab_size=64, length=80, seed=0)
    model.embedding.weight.register_hook(lambda _: seen.append(goes_to_onednn()))
    tokens = torch.randint(0, 64, (2, 2, 80), generator=torch.Generator().manual_seed(0))
    with forced("portable"), by_onednn(True):
        model.loss(*tokens).backward()
        assert goes_to_onednn()
    assert len(spy.forward) >= 2
    assert spy.forward == spy.backward == [False] * len(spy.forward)
    assert seen == [True]


@NEEDS_SETTING
@pytest.mark.parametrize("needed", [(True, True, True), (False, True, True), (True, False, False)])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_and_its_gradients_are_those_of_the_default(
    needed: tuple[bool, ...], kv_heads: int, masked: bool
) -> None:
    random = torch.Generator().manual_seed(1)
    given = [torch.randn(2, heads, 70, 16, generator=random) for heads in (4, kv_heads, kv_heads)]
    d_y = torch.randn(2, 4, 70, 16, generator=random)
    mask = torch.ones(70, 70, dtype=torch.bool).tril().triu(-9)[None, None] if masked else None
    results = []
    for wanted in (False, True):
        q, k, v = (tensor.clone().requires_grad_(need) for tensor, need in zip(given, needed, strict=True))
        with by_onednn(wanted):
            y = dot_product_attention(q, k, v, mask, causal=not masked)
            y.backward(d_y)
        results.append([y.detach(), *(tensor.grad for tensor in (q, k, v))])
    for default, other in zip(*results, strict=True):
        assert (default is None and other is None) or torch.equal(default, other)


@NEEDS_SETTING
def test_attention_without_gradients_keeps_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    q = torch.randn(1, 2, 70, 16, requires_grad=True)
    with by_onednn(True), torch.no_grad():
        assert not dot_product_attention(q, q, q, causal=True).requires_grad
    assert (spy.forward, spy.backward) == ([False], [])


def test_attention_is_called_as_it_is_where_products_do_not_go_to_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdpa._ByDefaultLibrary, "forward", None)
    q = torch.randn(1, 2, 70, 16, requires_grad=True)
    with by_onednn(False):
        assert "ScaledDotProduct" in str(dot_product_attention(q, q, q, causal=True).grad_fn)


def test_what_this_cpu_does_is_looked_at_once() -> None:
    assert probe() is probe()
    assert probe().default < 1e-5
