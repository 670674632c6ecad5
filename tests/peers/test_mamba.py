"""Rec against Hugging Face's Mamba: the same weights give the same logits, gradients and text, in float64.

The paper's Rec is Mamba without the inner expansion and with a convolution of three taps: Mamba with expand 1. One of
its layers is one LIV. Without a GPU its scan is a plain loop over tokens, which shares nothing with our parallel scan.
"""

from __future__ import annotations

import pytest
import torch
from peer_models import VOCAB, Float64, gradients_of, left_padded, logits_of, random_peer, random_tokens
from torch import Tensor, nn

from star import LanguageModel, OptionPool
from star.genome import LivClass
from star.genome.presets import preset
from star.genome.variation import unconnected
from star.liv.sizes import SHORT_TAPS, step_rank

transformers = pytest.importorskip("transformers", reason="the peer is installed with the extra `hf`")

PAPER, STRIPED = OptionPool.paper(), preset("striped-mamba", 24)[1]
ROWS = {"Rec-1": PAPER[5], "Rec-2": PAPER[6], "StripedMamba": STRIPED[5]}
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def mamba(row: LivClass, width: int, depth: int, tied: bool = True, seed: int = 0) -> nn.Module:
    config = transformers.MambaConfig(
        vocab_size=VOCAB,
        hidden_size=width,
        state_size=row.groups["B"].expansion,
        num_hidden_layers=depth,
        layer_norm_epsilon=1e-5,
        expand=1,
        conv_kernel=SHORT_TAPS,
        use_bias=False,
        use_conv_bias=False,
        time_step_rank=step_rank(width),
        residual_in_fp32=False,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return random_peer(lambda: transformers.MambaForCausalLM(config), seed)


def in_our_names(theirs: dict[str, Tensor], row: LivClass) -> dict[str, Tensor]:
    """Mamba's tensors, weights or gradients, under our names: its two stacked projections taken apart."""
    outside = {
        "backbone.embeddings.weight": "embedding.weight",
        "backbone.norm_f.weight": "norm.weight",
        "lm_head.weight": "head.weight",
    }
    states = row.groups["B"].expansion
    ours = {}
    for name, tensor in theirs.items():
        if name in outside:
            ours[outside[name]] = tensor
            continue
        _, _, index, part = name.split(".", 3)
        liv = f"backbone.livs.{index}.branches.0"
        groups = f"{liv}.featurizer.groups"
        match part.removeprefix("mixer."):
            case "norm.weight":
                ours[f"backbone.norms.{index}.weight"] = tensor
            case "in_proj.weight":
                ours[f"{groups}.v.project.weight"], ours[f"{groups}.z.project.weight"] = tensor.chunk(2)
            case "conv1d.weight":
                ours[f"{groups}.v.taps"] = tensor.squeeze(1)
            case "x_proj.weight":
                parts = tensor.split([tensor.shape[0] - 2 * states, states, states])
                for group, rows in zip(("delta.project.reduce", "B.project", "C.project"), parts, strict=True):
                    ours[f"{groups}.{group}.weight"] = rows
            case "dt_proj.weight":
                ours[f"{groups}.delta.project.expand.weight"] = tensor
            case "dt_proj.bias":
                ours[f"{groups}.delta.bias"] = tensor
            case "A_log" | "D" as own:
                ours[f"{liv}.mixer.{own}"] = tensor
            case "out_proj.weight":
                ours[f"{liv}.output.weight"] = tensor
    return ours


def with_weights_of(peer: nn.Module, row: LivClass, width: int, depth: int, tied: bool = True) -> LanguageModel:
    pool = OptionPool("recurrent", (row,))
    genome = unconnected([row.id] * depth)
    model = LanguageModel.from_genome(genome, width=width, vocab_size=VOCAB, pool=pool, tie_embeddings=tied).double()
    model.load_state_dict(in_our_names(peer.state_dict(), row), strict=True)
    return model.eval()


def pair(name: str, width: int = 32, depth: int = 3, tied: bool = True) -> tuple[nn.Module, LanguageModel]:
    peer = mamba(ROWS[name], width, depth, tied)
    return peer, with_weights_of(peer, ROWS[name], width, depth, tied)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("width", "depth"), [(32, 3), (64, 2)])
@pytest.mark.parametrize("name", ROWS)
def test_logits(name: str, width: int, depth: int, tied: bool) -> None:
    peer, model = pair(name, width, depth, tied)
    tokens = random_tokens(2, 150)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), logits_of(peer, tokens), **EXACT)


@pytest.mark.parametrize("name", ROWS)
def test_gradients(name: str) -> None:
    peer, model = pair(name, tied=False)
    tokens = random_tokens(2, 40)
    weights = torch.randn(2, 40, VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (model(tokens) * weights).sum().backward()
    theirs = in_our_names(gradients_of(peer, tokens, weights), ROWS[name])
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-11, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("chunks", [[1] * 40, [7, 1, 1, 18, 13], [40]], ids=["tokens", "mixed", "whole"])
@pytest.mark.parametrize("name", ROWS)
def test_our_cached_passes_give_their_full_pass(name: str, chunks: list[int]) -> None:
    peer, model = pair(name)
    tokens = random_tokens(2, 40)
    state = model.init_state(2, 40)
    with torch.no_grad():
        ours = torch.cat([model(part, state=state) for part in tokens.split(chunks, 1)], 1)
    torch.testing.assert_close(ours, logits_of(peer, tokens), **EXACT)


def test_our_full_pass_gives_their_cached_steps() -> None:
    peer, model = pair("Rec-1")
    tokens = random_tokens(2, 30)
    with torch.no_grad(), Float64():
        cache, theirs = None, []
        for part in tokens.split([11] + [1] * 19, 1):
            output = peer(part, cache_params=cache, use_cache=True)
            cache = output.cache_params
            theirs.append(output.logits)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), torch.cat(theirs, 1), **EXACT)


@pytest.mark.parametrize("name", ROWS)
def test_left_padding(name: str) -> None:
    peer, model = pair(name)
    tokens, mask = left_padded([19, 30, 7])
    theirs = logits_of(peer, tokens, attention_mask=mask)
    real = mask.bool()
    with torch.no_grad():
        torch.testing.assert_close(model(tokens, attention_mask=mask)[real], theirs[real], **EXACT)
        state = model.init_state(3, 30)
        parts = [model(tokens[:, :27], state=state, attention_mask=mask[:, :27]), model(tokens[:, 27:], state=state)]
        torch.testing.assert_close(torch.cat(parts, 1)[real], theirs[real], **EXACT)


def test_greedy_text_of_a_padded_batch() -> None:
    peer, model = pair("Rec-1")
    tokens, mask = left_padded([9, 14])
    with torch.no_grad(), Float64():
        theirs = peer.generate(tokens, attention_mask=mask, max_new_tokens=20, do_sample=False)[:, 14:]
    ours = torch.stack(list(model.generate(tokens, attention_mask=mask, max_new_tokens=20, temperature=0)), 1)
    assert torch.equal(ours, theirs)


def test_a_fresh_peer_starts_as_we_do() -> None:
    """Not only the formulas: A, D and the range of the step size at initialisation are Mamba's."""
    config = transformers.MambaConfig(hidden_size=512, num_hidden_layers=1, vocab_size=VOCAB, expand=1, conv_kernel=3)
    theirs = in_our_names(transformers.MambaForCausalLM(config).state_dict(), PAPER[5])
    ours = LanguageModel.from_genome("51111", width=512, vocab_size=VOCAB, seed=0).state_dict()
    liv = "backbone.livs.0.branches.0"
    for name in (f"{liv}.mixer.A_log", f"{liv}.mixer.D"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)
    ours_steps, their_steps = (
        nn.functional.softplus(weights[f"{liv}.featurizer.groups.delta.bias"]).log().sort().values
        for weights in (ours, theirs)
    )
    # Two samples of 512 from one distribution: their sorted values differ by the sampling noise of quantiles.
    assert float((ours_steps - their_steps).abs().mean()) < 0.35
    expand = f"{liv}.featurizer.groups.delta.project.expand.weight"
    assert float(ours[expand].abs().max()) == pytest.approx(float(theirs[expand].abs().max()), rel=0.02)


def test_their_own_arithmetic_differs_by_float32_roundings_only() -> None:
    """As published, the peer takes norms, decays and the inputs of the scan through float32, whatever its weights."""
    peer, model = pair("Rec-1")
    tokens = random_tokens(2, 150)
    with torch.no_grad():
        ours, theirs, single = model(tokens), peer(tokens).logits, model.float()(tokens)
    assert float((ours - theirs).abs().max()) > 1e-9  # so that float64 above is really needed
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(single.double(), theirs.double(), rtol=1e-4, atol=1e-4)
