"""LIVs that are one kernel with the norm before them: sequences of all lengths and numbers, what nobody wants, and that
a backbone computes the same with and without."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest
import torch
from kernel_marks import NEEDS_COMPILER, implementations
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from star import LanguageModel, OptionPool
from star.backbone import Backbone
from star.genome import BackboneGenome, random_genome
from star.liv import LIV, Call
from star.liv.kernels import forced
from star.liv.kernels import multi_head_attention as module
from star.liv.kernels.cross_entropy import head_cross_entropy
from star.liv.kernels.gated_mlp import gated_mlp
from star.liv.kernels.multi_head_attention import MULTI_HEAD_ATTENTION, multi_head_attention
from star.liv.kernels.rms_norm import RMS_NORM
from star.liv.maps import Dense
from star.training.compilation import compiled

ATTENTION, GATED_UNIT = 1, 9
GENOME = BackboneGenome.parse("11111 91111 11111 91111")


def attention_inputs(
    batch: int, length: int, width: int = 32, size: int = 16, heads: tuple[int, int] = (2, 1)
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(heads[0] * size, width), (heads[1] * size, width), (heads[1] * size, width), (48, heads[0] * size)]
    x = torch.randn(batch, length, width, generator=generator)
    return [x, *(torch.randn(shape, generator=generator) / shape[1] ** 0.5 for shape in shapes)]


def with_gradients(inputs: list[Tensor], size: int, implementation: str) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    with forced(implementation):
        y = multi_head_attention(leaves[0], None, None, 0.0, *leaves[1:], size, 3)[1]
    return [y, *torch.autograd.grad(y, leaves, torch.cos(torch.arange(y.numel())).view_as(y))]


@NEEDS_COMPILER
@pytest.mark.parametrize("length", [64, 65, 96, 127, 128, 129, 300, 1030])
@pytest.mark.parametrize("batch", [8, 11])
def test_sequences_of_all_lengths(length: int, batch: int) -> None:
    assert_as_the_reference(attention_inputs(batch, length))


@NEEDS_COMPILER
@pytest.mark.parametrize("batch", [64, 65, 150])
def test_more_sequences_than_tasks(batch: int) -> None:
    assert_as_the_reference(attention_inputs(batch, 64))


@NEEDS_COMPILER
@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("heads", [(1, 1), (2, 2), (2, 1)])
def test_heads_of_all_sizes(size: int, heads: tuple[int, int]) -> None:
    assert_as_the_reference(attention_inputs(8, 100, 48, size, heads), size)


def assert_as_the_reference(inputs: list[Tensor], size: int = 16) -> None:
    assert MULTI_HEAD_ATTENTION.chosen(inputs[0], None, None, 0.0, *inputs[1:], size, 3) == "native"
    for one, other in zip(*(with_gradients(inputs, size, name) for name in ("native", "reference")), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.detach().abs().max()))


@NEEDS_COMPILER
def test_scores_of_any_size() -> None:
    """Where scores are huge, each token looks at one other; the gradients of q and k vanish, and nothing is NaN."""
    inputs = attention_inputs(8, 100)
    inputs[1], inputs[2] = 1e6 * inputs[1], 1e6 * inputs[2]
    found, expected = (with_gradients(inputs, 16, name) for name in ("native", "reference"))
    assert all(bool(tensor.isfinite().all()) for tensor in found)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-4)


@NEEDS_COMPILER
@pytest.mark.parametrize("wanted", [each for each in product([False, True], repeat=7) if any(each)])
def test_each_gradient_alone_and_with_others(wanted: tuple[bool, ...]) -> None:
    x, *weights = attention_inputs(8, 70)
    norm, update = torch.linspace(0.5, 2, 32), torch.linspace(-1, 1, x.numel()).view_as(x)
    given = [x, update, norm, *weights]
    leaves = [tensor.requires_grad_(needed) for tensor, needed in zip(given, wanted, strict=True)]
    leaves = [tensor for tensor in leaves if tensor.requires_grad]
    found = []
    for name in ("native", "reference"):
        with forced(name):
            total, y = MULTI_HEAD_ATTENTION(*given[:3], 1e-5, *given[3:], 16, 0)
            found.append(torch.autograd.grad(y.square().sum() + total.sin().sum(), leaves, allow_unused=True))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@implementations
@pytest.mark.parametrize("wanted", [each for each in product([False, True], repeat=6) if any(each)])
def test_each_gradient_of_the_gated_unit(implementation: str, wanted: tuple[bool, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, update = torch.randn(2, 1, 100, 32, generator=generator).unbind()
    gate, up, down = torch.randn(3, 32, 32, generator=generator).unbind()
    given = [x, update, torch.linspace(0.5, 2, 32), gate, up, down]
    leaves = [tensor.requires_grad_(needed) for tensor, needed in zip(given, wanted, strict=True)]
    leaves = [tensor for tensor in leaves if tensor.requires_grad]
    found = []
    for name in (implementation, "reference"):
        with forced(name):
            total, y = gated_mlp(*given[:3], 1e-5, *given[3:])
            found.append(torch.autograd.grad(y.square().sum() + total.sin().sum(), leaves, allow_unused=True))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@implementations
def test_the_stream_alone_may_be_looked_at(implementation: str) -> None:
    """The gradient of x + update, where nothing reads the LIV."""
    x, update = torch.randn(2, 1, 100, 64).unbind()
    norm, gate, up, down = torch.ones(64), *torch.randn(3, 64, 64).unbind()
    leaves = [tensor.requires_grad_() for tensor in (x, update)]
    with forced(implementation):
        total, _ = gated_mlp(x, update, norm, 1e-5, gate.requires_grad_(), up, down)
    for gradient in torch.autograd.grad(total.sin().sum(), leaves):
        torch.testing.assert_close(gradient, (x + update).cos())


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, *weights = attention_inputs(8, 100)
    for wrong in (
        (x[..., :16], *weights, 16),
        (x, weights[0][:24], *weights[1:], 16),
        (x, *weights[:3], weights[3][:, :16], 16),
        (x, *weights, 32),
    ):
        with pytest.raises(RuntimeError):
            multi_head_attention(wrong[0], None, None, 0.0, *wrong[1:])


@implementations
@pytest.mark.parametrize(("norm", "update"), [(16, None), (40, None), (32, (8, 100, 40)), (32, (7, 100, 32))])
def test_norms_and_updates_that_do_not_fit_are_refused(
    implementation: str, norm: int, update: tuple[int, ...] | None
) -> None:
    """Also where more numbers lie behind them in memory."""
    x, *weights = attention_inputs(8, 100)
    before = x, None if update is None else torch.ones(update), torch.ones(64)[:norm], 1e-5
    gate, up, down = torch.ones(32, 32), torch.ones(32, 32), torch.ones(32, 32)
    with forced(implementation):
        for call in (
            lambda: multi_head_attention(*before, *weights, 16),
            lambda: gated_mlp(*before, gate, up, down),
            lambda: RMS_NORM(*before),
        ):
            with pytest.raises(RuntimeError):
                call()


@implementations
def test_a_frozen_stream_needs_no_gradient(implementation: str) -> None:
    x, update = torch.randn(2, 1, 100, 32).unbind()
    gate, up, down = torch.randn(3, 32, 32).unbind()
    with forced(implementation):
        total, y = gated_mlp(x, update, torch.ones(32), 1e-5, gate.requires_grad_(), up, down)
    assert not total.requires_grad
    (gradient,) = torch.autograd.grad(y.sum(), gate)
    assert bool(gradient.isfinite().all())


class Louder(Dense):
    def forward(self, x: Tensor) -> Tensor:
        return 1 + super().forward(x)


@pytest.mark.parametrize("liv", [ATTENTION, GATED_UNIT])
def test_a_map_with_a_forward_of_its_own_is_called(liv: int) -> None:
    """Of another class, or replaced."""
    one, x = LIV(OptionPool.paper()[liv], 32), torch.randn(8, 64, 32)
    output = one.operators[0].output
    expected = one(x) + 1
    output.__class__ = Louder
    torch.testing.assert_close(one(x), expected)
    output.__class__ = Dense
    output.forward = lambda y: 1 + Dense.forward(output, y)
    torch.testing.assert_close(one(x), expected)


def trained(model: LanguageModel, tokens: Tensor) -> list[Tensor]:
    loss = model.loss(tokens[0], tokens[1])
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@implementations
@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("genome", ["11111 91111 11111 91111", "11221 91111 11221 91111", "91111 51111 91111"])
def test_a_model_is_the_same_without(
    implementation: str, width: int, genome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LanguageModel.from_genome(genome, width=width, vocab_size=50, seed=0)
    tokens = torch.randint(0, 50, (2, 9, 70), generator=torch.Generator().manual_seed(0))
    with forced(implementation):
        fused = trained(model, tokens)
        with torch.no_grad():
            logits = model(tokens[0])
        monkeypatch.setattr(Backbone, "_fused", lambda *_: None)
        monkeypatch.setattr("star.liv.operator.Operator.fused", lambda *_: None)
        apart = trained(model, tokens)
        with torch.no_grad():
            torch.testing.assert_close(logits, model(tokens[0]), rtol=1e-4, atol=1e-5)
    for one, other in zip(fused, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("seed", range(40))
def test_random_backbones_are_the_same_without(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of differences, shared features, parallel paths, routers and residual links, with softmax and gated units among
    them."""
    pool, random = OptionPool.full().with_extensions("residual", "paths", "routing"), Random(seed)
    if seed % 2:  # all of them LIVs that are one kernel where nothing is in the way
        pool = OptionPool("few", tuple(pool[liv] for liv in (ATTENTION, GATED_UNIT)), pool.extensions)
    model = LanguageModel.from_genome(random_genome(pool, 6, random), pool=pool, width=32, vocab_size=50, seed=0)
    tokens = torch.randint(0, 50, (2, 8, 64), generator=torch.Generator().manual_seed(0))
    fused = trained(model.double(), tokens)
    monkeypatch.setattr(Backbone, "_fused", lambda *_: None)
    monkeypatch.setattr("star.liv.operator.Operator.fused", lambda *_: None)
    for one, other in zip(fused, trained(model, tokens), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * (1 + float(other.abs().max())))


@NEEDS_COMPILER
def test_whole_livs_run_and_their_parts_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The native kernels of whole LIVs do run in a training step, and those of their parts do not."""
    called: list[str] = []
    known = module.native.Library.call

    def call(library: module.native.Library, function: str, record: object) -> None:
        called.append(function)
        known(library, function, record)

    monkeypatch.setattr(module.native.Library, "call", call)
    model = LanguageModel.from_genome(GENOME, width=64, vocab_size=50, seed=0)
    model.loss(*torch.randint(0, 50, (2, 8, 64))).backward()
    passes = ["multi_head_attention_forward", "gated_mlp_forward"] * 2 + ["rms_norm_forward", "rms_norm_backward"]
    assert called == [*passes, *["gated_mlp_backward", "multi_head_attention_backward"] * 2]


@pytest.mark.parametrize("hooked", ["everything", "LIVs", "operators"])
def test_hooks_are_called(hooked: str) -> None:
    model, called = LanguageModel.from_genome(GENOME, width=32, vocab_size=50, seed=0), []
    names = {module: name for name, module in model.named_modules()}
    tokens = torch.randint(0, 50, (2, 8, 64))

    def hook(module: nn.Module, *_: object) -> None:
        called.append(names[module])

    expected = model.loss(*tokens)
    livs = list(model.backbone.livs)
    chosen = livs if hooked == "LIVs" else [liv.operators[0] for liv in livs]
    handles = (
        [register_module_forward_hook(hook)]
        if hooked == "everything"
        else [module.register_forward_hook(hook) for module in chosen]
    )
    try:
        torch.testing.assert_close(model.loss(*tokens), expected)
    finally:
        for handle in handles:
            handle.remove()
    assert {names[module] for module in chosen} <= set(called)


def test_a_compiled_liv_is_not_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """`compiled` replaces what is called; with the compiler itself left out."""
    model, calls = LanguageModel.from_genome(GENOME, width=32, vocab_size=50, seed=0), []

    def compile_(liv: LIV) -> None:
        def run(*given: object) -> object:
            calls.append(liv)
            return liv.forward(*given)  # type: ignore[arg-type]

        liv._compiled_call_impl = run

    monkeypatch.setattr(LIV, "compile", compile_)
    tokens = torch.randint(0, 50, (2, 8, 64))
    expected = model.loss(*tokens)
    with compiled(model):
        torch.testing.assert_close(model.loss(*tokens), expected)
    assert calls == list(model.backbone.livs)


@implementations
def test_padding_and_states(implementation: str) -> None:
    """Left padding and a prefill in two parts give what each sequence gives alone."""
    model = LanguageModel.from_genome(GENOME, width=32, vocab_size=50, seed=0)
    tokens = torch.randint(0, 50, (9, 140), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[3, :60] = 0
    with forced(implementation), torch.no_grad():
        whole, padded = model(tokens), model(tokens, attention_mask=mask)
        state = model.init_state(9, 140)
        parts = torch.cat([model(tokens[:, :70], state), model(tokens[:, 70:], state)], dim=1)
        alone = model(tokens[3:4, 60:])
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(padded[3:4, 60:], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(padded[:3], whole[:3], rtol=1e-4, atol=1e-5)


@implementations
def test_autocast_reaches_the_products(implementation: str) -> None:
    liv, x = LIV(OptionPool.paper()[ATTENTION], 32), torch.randn(8, 64, 32)
    with forced(implementation), torch.autocast("cpu", torch.bfloat16):
        assert liv(x, Call()).dtype is torch.bfloat16


@implementations
@pytest.mark.parametrize("wrong", [-1, 7, 1 << 40])
def test_a_target_beyond_the_vocabulary_is_refused(implementation: str, wrong: int) -> None:
    x, weight, targets = torch.randn(300, 8), torch.randn(7, 8), torch.zeros(300, dtype=torch.int64)
    targets[200] = wrong
    refused = rf"out of bounds|target {wrong} is not from 0 to 6"
    with forced(implementation), pytest.raises((IndexError, RuntimeError), match=refused):
        head_cross_entropy(x, weight, targets)


@implementations
@pytest.mark.parametrize("vocab", [1, 2, 15, 16, 17, 300, 5000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
def test_losses_of_all_vocabularies(implementation: str, vocab: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 16, generator=generator, requires_grad=True) for n in (200, vocab))
    targets = torch.randint(0, vocab, (200,), generator=generator)
    found = []
    for name in (implementation, "reference"):
        with forced(name):
            loss = head_cross_entropy(scale * x, weight, targets)
            found.append([loss.detach(), *torch.autograd.grad(loss, [x, weight])])
    for one, other in zip(*found, strict=True):
        error = 1e-6 * (1 + scale)  # logits are rounded, in proportion to their size
        torch.testing.assert_close(one, other, rtol=10 * error, atol=error * (1 + float(other.abs().max())))
