"""Numbers that stay numbers: short and long sequences, bf16, initialisations, weight decay, saved filters."""

from __future__ import annotations

import json
from contextlib import nullcontext
from math import log
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from star import LanguageModel, OptionPool
from star.backbone import Backbone
from star.genome import LivClass, Nonlinearity, Sparsity, TokenMixing
from star.genome.variation import unconnected
from star.liv import Call
from star.liv.filters import ImplicitKernel
from star.liv.kernels.rms_norm import add_rms_norm
from star.liv.kernels.rotary import rotate
from star.liv.semi_separable import SemiSeparableMixer
from star.training.optimizer import parameter_groups

VOCAB = 37
LONG = 65_536
POOL = OptionPool.full()
NAMES = {liv: POOL[liv].name for liv in POOL.ids}
every_class = pytest.mark.parametrize("liv", NAMES, ids=NAMES.values())


def quadratic(row: LivClass) -> bool:
    mixing, sparsity, nonlinearity = row.operator.token_mixing, row.operator.sparsity, row.operator.nonlinearity
    return mixing is TokenMixing.LOW_RANK and sparsity is Sparsity.NONE and nonlinearity is not Nonlinearity.NONE


def language_model(liv: int, width: int = 16, length: int = 64) -> LanguageModel:
    return LanguageModel.from_genome(
        unconnected([liv, 9]) if liv != 9 else unconnected([9]),
        width=width,
        vocab_size=VOCAB,
        pool=POOL,
        length=length,
        seed=0,
    )


def tokens_of(batch: int, length: int) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(length))


def check_finite(model: nn.Module, output: Tensor) -> None:
    """Outputs are finite, and so are all gradients of a loss on them."""
    assert output.isfinite().all()
    output.float().square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
@pytest.mark.parametrize("length", [1, 2, 3])
@every_class
def test_shortest_sequences_have_finite_outputs_and_gradients(liv: int, length: int, precision: str) -> None:
    model = language_model(liv)
    if precision == "bfloat16":
        model = model.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16) if precision == "autocast" else nullcontext():
        output = model(tokens_of(2, length))
    check_finite(model, output)


def long_cases() -> list[object]:
    """Every class in float32 and bf16; the slow ones, differences of attention, in float32 only."""
    return [
        pytest.param(liv, dtype, id=f"{name}-{label}", marks=[pytest.mark.slow] * quadratic(POOL[liv]))
        for liv, name in NAMES.items()
        for label, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
        if not (quadratic(POOL[liv]) and POOL[liv].differential and dtype is torch.bfloat16)
    ]


@pytest.mark.parametrize(("liv", "dtype"), long_cases())
def test_65536_tokens(liv: int, dtype: torch.dtype) -> None:
    """Where time is linear in the length, gradients too; attention's would take minutes."""
    model = language_model(liv, length=4096).to(dtype)
    tokens = tokens_of(1, LONG)
    if quadratic(POOL[liv]):
        with torch.no_grad():
            assert model(tokens).isfinite().all()
    else:
        check_finite(model, model(tokens))


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)], ids=["float32", "bfloat16"]
)
@every_class
def test_the_65536th_token_of_a_full_state(liv: int, dtype: torch.dtype, bound: float) -> None:
    """One cached step with a long past, its numbers random, against the same step in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = Backbone(unconnected([liv]), POOL, width=16, length=4096).to(dtype)
        x = torch.randn(4, 1, 16).to(dtype)
        state = backbone.init_state(4, LONG)
        for branch in state.livs[0]:
            for held in branch.values():
                held.copy_(torch.randn(held.shape))
    outputs = []
    for kind in (dtype, torch.float64):
        past = [
            {name: held.to(torch.promote_types(held.dtype, kind), copy=True) for name, held in branch.items()}
            for branch in state.livs[0]
        ]
        with torch.no_grad():
            outputs.append(backbone.to(kind).livs[0](x.to(kind), Call(LONG - 1), past).double())
    assert outputs[0].isfinite().all()
    assert float((outputs[0] - outputs[1]).norm() / outputs[1].norm()) < bound


@every_class
def test_recurrent_states_are_float32_in_a_bf16_model(liv: int) -> None:
    model = language_model(liv).bfloat16()
    state = model.init_state(2, 8)
    with torch.no_grad():
        for part in tokens_of(2, 8).split([3, 1, 4], 1):
            assert model(part, state=state).dtype == torch.bfloat16
    for slots, states in zip(state.slots.livs, state.livs, strict=True):
        for branch, held in zip(slots, states, strict=True):
            for slot in branch:
                expected = torch.float32 if slot.accumulated else torch.bfloat16
                assert held[slot.name].dtype == expected, slot.name
    recurrent = POOL[liv].name.startswith(("Rec", "LinAttn", "S4"))
    assert any(slot.accumulated for branch in state.slots.livs[0] for slot in branch) == recurrent


@every_class
def test_bf16_decoding_stays_near_float32(liv: int) -> None:
    """LIV for LIV, with the same (rounded) weights and inputs: the relative error of the outputs is a few roundings to
    bf16 (2⁻⁹ each), and after hundreds of tokens the same as at the start. Recurrences are made to remember: a state
    rounded to bf16 at each step would be far off."""
    length = 512
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = Backbone(unconnected([liv]), POOL, width=32, length=length)
        x = torch.randn(1, length, 32).bfloat16()
    for module in backbone.modules():
        if isinstance(module, SemiSeparableMixer):
            nn.init.constant_(module.A_log, -6.0)
            nn.init.zeros_(module.D)
    norm, operator = backbone.bfloat16().norms[0], backbone.livs[0]
    with torch.no_grad():
        inputs = norm(x)
        state = backbone.init_state(1, length)
        steps = [operator(inputs[:, t : t + 1], Call(t), state.livs[0]) for t in range(length)]
        exact = backbone.float().livs[0](inputs.float())
    exact = exact.double().unflatten(1, (4, -1))
    error = torch.cat(steps, 1).double().unflatten(1, (4, -1)) - exact
    relative = (error.square().sum((0, 2, 3)) / exact.square().sum((0, 2, 3))).sqrt()  # of each quarter
    assert float(relative.max()) < 0.015
    assert float(relative[-1]) < 1.5 * float(relative[0])


def test_norms_of_bf16_are_summed_as_pytorch_sums_them() -> None:
    generator = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(2, 16, 256, 64, generator=generator).bfloat16().unbind()
    found = []
    for norm in (
        lambda x, weight: add_rms_norm(x, None, weight, 1e-5)[1],
        lambda x, w: functional.rms_norm(x, (64,), w, 1e-5),
    ):
        leaves = x.detach().requires_grad_(), torch.ones(64, dtype=torch.bfloat16, requires_grad=True)
        y = norm(*leaves)
        found.append([y, *torch.autograd.grad(y, leaves, gradient)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@every_class
def test_shapes_can_be_computed_without_numbers(liv: int) -> None:
    backbone = Backbone(unconnected([liv]), POOL, width=32, length=64).to("meta")
    assert backbone(torch.empty(2, 64, 32, device="meta")).shape == (2, 64, 32)


@pytest.mark.parametrize("position", [0, 1000, 65_000])
def test_positions_are_not_rounded_to_bf16(position: int) -> None:
    """Around 65,000, bf16 knows only every 256th integer; the rotation of a bf16 vector is off by its own rounding."""
    x = torch.randn(1, 300, 2, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    turned = rotate(x, position)
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned.double(), rotate(x.double(), position), rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("liv", [5, 6, 14, 15], ids=lambda liv: NAMES[liv])
def test_mamba_initialisation(liv: int) -> None:
    """A = -(1 … N), D = 1, and steps Δ log-uniform in (0.001, 0.1) (Gu & Dao 2023, 3.6)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = Backbone(unconnected([liv]), POOL, width=1024)
    for operator in backbone.livs[0].operators:
        states = POOL[liv].groups["B"].expansion
        mixer, bias = operator.mixer, operator.featurizer.groups["delta"].bias
        torch.testing.assert_close(mixer.A_log.exp(), torch.arange(1.0, states + 1).expand(1024, -1))
        assert torch.equal(mixer.D, torch.ones(1024))
        steps = functional.softplus(bias.detach().double())
        assert float(steps.min()) > 0.000999
        assert float(steps.max()) < 0.1001
        place = ((steps.log() - log(1e-3)) / (log(0.1) - log(1e-3))).sort().values
        # Kolmogorov and Smirnov's distance to the uniform distribution; above 0.061 at n = 1024 with probability 0.001.
        assert float((place - (torch.arange(1024) + 0.5) / 1024).abs().max()) < 0.061


def generic_init(module: nn.Module) -> None:
    """What training scripts apply to whole models."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)


def test_a_generic_initialisation_leaves_the_livs_alone() -> None:
    """Their linear maps are no `nn.Linear`: decays, step sizes and implicit filters keep their own beginnings."""
    model = LanguageModel.from_genome(unconnected([5, 8, 14, 17]), width=32, vocab_size=VOCAB, seed=0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.apply(generic_init)
    assert not torch.equal(model.embedding.weight, before["embedding.weight"])
    own = {name for name in before if name.startswith("backbone.")}
    assert {name.rsplit(".", 1)[-1] for name in own} >= {"A_log", "D", "bias", "frequency", "present", "last", "taps"}
    for name, parameter in model.named_parameters():
        if name in own:
            assert torch.equal(parameter, before[name]), name


def test_resetting_the_modules_gives_a_fresh_initialisation() -> None:
    """`reset_parameters` of every module, the hook for weights that start on the meta device, knows them all."""
    model = LanguageModel.from_genome(unconnected([5, 8]), width=256, vocab_size=VOCAB, seed=0)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.fill_(7.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in model.backbone.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    mixer, groups = (getattr(model.backbone.livs[0].operators[0], name) for name in ("mixer", "featurizer"))
    torch.testing.assert_close(mixer.A_log.exp(), torch.arange(1.0, 17).expand(256, -1))
    assert torch.equal(mixer.D, torch.ones(256))
    steps = functional.softplus(groups.groups["delta"].bias.detach())
    assert 0.00099 < float(steps.min()) < float(steps.max()) < 0.101
    assert not any(bool((parameter == 7.0).any()) for parameter in model.backbone.parameters())


def test_decays_steps_and_scales_are_not_decayed() -> None:
    model = LanguageModel.from_genome(unconnected([5, 8, 15, 17]), width=32, vocab_size=VOCAB, seed=0)
    """Of the implicit filter nothing is: Poli et al. train its whole network without weight decay."""
    filters = ("frequency", "present", "last", "first.weight", "second.weight", "third.weight", "first.bias")
    protected = ("mixer.A_log", "mixer.D", "delta.bias", *(f"K.{name}" for name in filters))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for fresh in (model, model.bfloat16()):
        groups = parameter_groups(fresh, weight_decay=0.1)
        decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
        found = {ending for name in names.values() for ending in protected if name.endswith(ending)}
        assert found == set(protected)
        assert not [name for name in decayed if name.endswith(protected)]
        marked = {names[id(p)] for p in fresh.parameters() if getattr(p, "no_weight_decay", False)}
        assert {name for name in names.values() if name.endswith(protected)} <= marked
        assert any(name.endswith("output.weight") for name in decayed)


@pytest.mark.parametrize("liv", [8, 17], ids=lambda liv: NAMES[liv])
def test_implicit_filters_are_saved_with_the_length_they_were_built_for(liv: int, tmp_path: Path) -> None:
    model = language_model(liv, length=200)
    model.save(tmp_path)
    config = tmp_path / "config.json"
    settings = json.loads(config.read_text())
    assert settings["length"] == 200
    config.write_text(json.dumps({**settings, "length": 4096}))  # the weights know better than the config
    again = LanguageModel.load(tmp_path)
    kernels, loaded = ([m for m in whole.modules() if isinstance(m, ImplicitKernel)] for whole in (model, again))
    assert len(kernels) == len(loaded) == (2 if POOL[liv].differential else 1)
    for one, other in zip(kernels, loaded, strict=True):
        assert int(other.length) == 200
        for lags in (1, 200, 500):
            assert torch.equal(other(lags), one(lags))


def test_a_kernel_does_not_depend_on_how_much_of_it_is_asked_for() -> None:
    kernel = ImplicitKernel(4, 100).double()
    torch.testing.assert_close(kernel(700)[:, :50], kernel(50), rtol=1e-13, atol=1e-13)
