"""Backbones of stages: residual links, parallel paths and routers keep every claim, and compute what they say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from views import POOL, VOCAB, check_gradients, check_trains, check_views, tiny

from star import BackboneGenome, LanguageModel, StarError
from star.genome import Extension, OptionPool, random_genome
from star.lm import analyse

EVERYTHING = POOL.with_extensions(*Extension)


def composed(genome: str, width: int = 32, pool: OptionPool = EVERYTHING) -> LanguageModel:
    return tiny(genome, width, pool=pool)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_random_backbones_with_all_extensions(seed: int, depth: int) -> None:
    model = composed(str(random_genome(EVERYTHING, depth, Random(seed))), 16)
    check_trains(model)
    check_views(model, Random(seed), length=19)
    if seed % 2 == 0:
        check_gradients(model, Random(seed), length=9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 200))
def test_cost_is_what_is_allocated(seed: int, depth: int, length: int) -> None:
    genome = random_genome(EVERYTHING, depth, Random(seed))
    model = LanguageModel.from_genome(genome, width=32, vocab_size=VOCAB, pool=EVERYTHING)
    cost = analyse(genome, EVERYTHING, width=32, length=length, element_bytes=4)
    assert model.init_state(3, length).nbytes == 3 * cost.cache_bytes
    assert cost.parameters == sum(p.numel() for p in model.parameters()) - model.embedding.weight.numel()
    canonical = analyse(genome.canonical(EVERYTHING), EVERYTHING, width=32, length=length, element_bytes=4)
    assert (canonical.parameters, canonical.cache_bytes) == (cost.parameters, cost.cache_bytes)


def test_an_identity_is_no_layer() -> None:
    one, other = composed("11111 01111 91111"), composed("11111 91111")
    tokens = torch.randint(0, VOCAB, (1, 9))
    with torch.no_grad():
        assert torch.equal(one(tokens), other(tokens))


def test_a_residual_link_adds_the_earlier_output_to_input_and_stream() -> None:
    """y^n = T(norm(u)) norm(u) + u with u = y^{n-1} + y^m (A.7)."""
    model = composed("111111 911110 711111")
    backbone = model.backbone
    x = torch.randn(2, 11, 32, dtype=torch.float64)
    with torch.no_grad():
        y = [x]
        for index in range(3):
            u = y[-1] + y[1] if index == 2 else y[-1]
            y.append(u + backbone.livs[index](backbone.norms[index](u)))
        torch.testing.assert_close(backbone(x), y[-1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("routing", [1, 2, 3])
def test_parallel_paths_read_one_input_and_are_weighted(routing: int) -> None:
    model = composed(f"1111101{routing} 9111101{routing} 5111101{routing}")
    backbone = model.backbone
    x = torch.randn(2, 11, 32, dtype=torch.float64)
    with torch.no_grad():
        for parameter in backbone.routers.parameters():
            parameter.add_(torch.randn_like(parameter))
        inputs = backbone.norms[0](x)
        outputs = [liv(inputs) for liv in backbone.livs]
        if routing == 1:
            assert not list(backbone.routers.parameters())
            expected = sum(outputs)
        elif routing == 2:
            weights = backbone.routers["0"].logits.softmax(0)
            expected = sum(weight * output for weight, output in zip(weights, outputs, strict=True))
        else:
            expected = sum(w.unsqueeze(-1) * y for w, y in zip(_liquid(model, inputs).unbind(-1), outputs, strict=True))
        torch.testing.assert_close(backbone(x), x + expected, rtol=1e-10, atol=1e-12)


def _liquid(model: LanguageModel, inputs: torch.Tensor) -> torch.Tensor:
    """h_t = e^{-Δ_t} h_{t-1} + (1 - e^{-Δ_t}) target(x_t), token by token; the weights [B, ℓ, paths]."""
    router = model.backbone.routers["0"]
    h, found = inputs.new_zeros(inputs.shape[0], router.paths), []
    for x in inputs.unbind(1):
        decay = torch.exp(-functional.softplus(x @ router.rate.weight.t() + router.rate_bias))
        h = decay * h + (1 - decay) * (x @ router.target.weight.t())
        found.append((h + router.bias).softmax(-1))
    return torch.stack(found, 1)


@contextmanager
def top1(model: LanguageModel) -> Iterator[None]:
    model.eval()
    model.use_top1()
    for router in model.backbone.routers.values():  # choices that change from token to token
        with torch.no_grad():
            router.target.weight.mul_(8.0)
            router.rate_bias.add_(2.0)
    yield


TOP1_GENOMES = (
    "91111013 91111010 92121010",
    "11111013 51111010 91111010 71111000",
    "18.1.1.1.1.0.1.3 19.1.1.1.1.0.1.1 20.1.1.1.1.0.1.1 21.1.1.1.1.0.1.1 23.1.1.1.1.0.1.1 24.1.1.1.1.0.1.1",
    "21111013 21114010 9.1.1.1.1.0.1.1 91113010 13.1.1.1.1.0.1.1 8.1.1.1.1.0.1.1",
    "51111013 52124010 91111000 51126020 61111023 71112020",
)


@pytest.mark.parametrize("genome", TOP1_GENOMES)
def test_all_views_agree_when_only_the_favourite_path_speaks(genome: str) -> None:
    model = composed(_without_routing_of_followers(genome))
    with top1(model):
        check_views(model, Random(0), length=27)


def _without_routing_of_followers(genome: str) -> str:
    """Write routing 1 where the texts above have 0, for brevity."""
    parsed = [word.split(".") if "." in word else list(word) for word in genome.split()]
    return " ".join(".".join([*word[:7], "1" if word[7] == "0" else word[7]]) for word in parsed)


def test_top1_takes_each_token_from_the_likeliest_path() -> None:
    model = composed("11111013 51111011 91111011")
    x = torch.randn(2, 30, 32, dtype=torch.float64)
    with top1(model), torch.no_grad():
        backbone = model.backbone
        inputs = backbone.norms[0](x)
        best = _liquid(model, inputs).argmax(-1)
        assert len(best.unique()) == 3
        outputs = torch.stack([liv(inputs) for liv in backbone.livs])
        chosen = outputs.gather(0, best[None, :, :, None].expand(1, *x.shape))[0]
        torch.testing.assert_close(backbone(x), x + chosen, rtol=1e-12, atol=1e-12)
        model.train()
        assert not torch.allclose(backbone(x), x + chosen)


@pytest.mark.parametrize(
    ("genome", "share"),
    [
        ("91111013 92111011 93111011 94111011", 0.26),  # memoryless paths are skipped whole
        ("11111013 51111011 71111011 91111011", 0.75),  # the others still take note of every token
    ],
)
def test_top1_really_skips_work(genome: str, share: float) -> None:
    """Floating-point operations of one decoded token, with one path over with all, the small router aside."""
    model = composed(genome, 64).requires_grad_(False)
    counts = []
    with top1(model), torch.no_grad():
        for enabled in (False, True):
            model.use_top1(enabled)
            state = model.init_state(1, 40)
            model(torch.randint(0, VOCAB, (1, 30), generator=torch.Generator().manual_seed(0)), state)
            x = torch.randn(1, 1, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
            with FlopCounterMode(display=False) as counter:
                model.backbone(x, state)
            counts.append(counter.get_total_flops() - 4 * 64 * 4)
    assert counts[1] < share * counts[0]


def test_top1_without_a_router_is_refused() -> None:
    with pytest.raises(StarError, match="needs a liquid router"):
        composed("11111 91111").use_top1()


def test_checkpoints_keep_extensions(tmp_path: object) -> None:
    model = composed("11111013 51111011 01111 711111 911111").float().eval()
    model.save(tmp_path)  # type: ignore[arg-type]
    again = LanguageModel.load(tmp_path).eval()  # type: ignore[arg-type]
    assert again.config == model.config
    tokens = torch.randint(0, VOCAB, (2, 30))
    assert torch.equal(again(tokens), model(tokens))


def test_a_router_state_forks_reorders_and_cannot_be_trimmed() -> None:
    model = composed("11111013 11112011")
    tokens = torch.randint(0, VOCAB, (2, 12))
    with torch.no_grad():
        state = model.init_state(2, 12)
        model(tokens[:, :6], state=state)
        swapped = state.reorder(torch.tensor([1, 0]))
        first = model(tokens[:, 6:], state=state.fork())
        torch.testing.assert_close(model(tokens[[1, 0], 6:], state=swapped), first[[1, 0]], rtol=1e-12, atol=1e-12)
        with pytest.raises(StarError, match="the router of stage 0 keeps h"):
            state.trim(3)


def test_genomes_of_five_integers_are_refused_extensions_by_name() -> None:
    for genome, extension in (("111111 911111", "residual"), ("1111101 9111101", "paths"), ("01111 91111", "depth")):
        with pytest.raises(StarError, match=extension):
            LanguageModel.from_genome(BackboneGenome.parse(genome), width=32, vocab_size=VOCAB)
