"""Transformer++ against Hugging Face's Llama: the same weights give the same logits, gradients and text, in float64.

One of Llama's layers is two of our LIVs: attention in its residual, then the gated unit in its own. Llama rotates the
pairs (i, i + h/2) of a head of size h, we rotate (2i, 2i + 1): the rows of its q and k are permuted.
"""

from __future__ import annotations

import pytest
import torch
from peer_models import VOCAB, Float64, gradients_of, left_padded, logits_of, random_peer, random_tokens
from torch import Tensor, nn

from star import LanguageModel, OptionPool
from star.genome.presets import preset
from star.genome.variation import interleaved
from star.liv.sizes import head_size, hidden_size

transformers = pytest.importorskip("transformers", reason="the peer is installed with the extra `hf`")

PAPER = OptionPool.paper()
ATTENTION = {1: "SA-1", 3: "SA-3", 4: "SA-4"}
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def heads(liv: int, width: int) -> tuple[int, int, int]:
    """Query heads, key heads and head size of an attention class."""
    repeat = PAPER[liv].groups["k"].repeat
    size = head_size(width, repeat)
    return width // size, width // size // repeat, size


def llama(width: int, depth: int, liv: int = 1, tied: bool = False, seed: int = 0) -> nn.Module:
    queries, keys, _ = heads(liv, width)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=width,
        intermediate_size=hidden_size(PAPER[9], width),
        num_hidden_layers=depth // 2,
        num_attention_heads=queries,
        num_key_value_heads=keys,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return random_peer(lambda: transformers.LlamaForCausalLM(config), seed)


def in_our_names(theirs: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """Llama's tensors, weights or gradients, under our names and in our order of rows."""

    def interleave(rows: Tensor) -> Tensor:
        # (H two half) d -> (H half two) d
        return rows.unflatten(0, (-1, 2, size // 2)).transpose(1, 2).flatten(0, 2)

    names = {
        "input_layernorm.weight": (0, "norm"),
        "self_attn.q_proj.weight": (0, "q"),
        "self_attn.k_proj.weight": (0, "k"),
        "self_attn.v_proj.weight": (0, "v"),
        "self_attn.o_proj.weight": (0, "output"),
        "post_attention_layernorm.weight": (1, "norm"),
        "mlp.gate_proj.weight": (1, "gate"),
        "mlp.up_proj.weight": (1, "up"),
        "mlp.down_proj.weight": (1, "output"),
    }
    outside = {
        "model.embed_tokens.weight": "embedding.weight",
        "model.norm.weight": "norm.weight",
        "lm_head.weight": "head.weight",
    }
    ours = {}
    for name, tensor in theirs.items():
        if name in outside:
            ours[outside[name]] = tensor
            continue
        _, _, layer, rest = name.split(".", 3)
        which, part = names[rest]
        index = 2 * int(layer) + which
        if part == "norm":
            ours[f"backbone.norms.{index}.weight"] = tensor
        elif part == "output":
            ours[f"backbone.livs.{index}.branches.0.output.weight"] = tensor
        else:
            group = f"backbone.livs.{index}.branches.0.featurizer.groups.{part}.project.weight"
            ours[group] = interleave(tensor) if part in ("q", "k") else tensor
    return ours


def with_weights_of(peer: nn.Module, width: int, depth: int, liv: int = 1, tied: bool = False) -> LanguageModel:
    """Our model with Llama's weights: the preset for plain attention, a grouped class in its place otherwise."""
    genome, pool = preset("transformer++", depth) if liv == 1 else (interleaved(liv, 9, depth), PAPER)
    model = LanguageModel.from_genome(genome, width=width, vocab_size=VOCAB, pool=pool, tie_embeddings=tied).double()
    model.load_state_dict(in_our_names(peer.state_dict(), heads(liv, width)[2]), strict=True)
    return model.eval()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("width", "depth"), [(64, 4), (64, 8), (128, 4)])
@pytest.mark.parametrize("liv", ATTENTION, ids=ATTENTION.values())
def test_logits(liv: int, width: int, depth: int, tied: bool) -> None:
    peer = llama(width, depth, liv, tied)
    model = with_weights_of(peer, width, depth, liv, tied)
    tokens = random_tokens(2, 41)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), logits_of(peer, tokens), **EXACT)


@pytest.mark.parametrize("liv", ATTENTION, ids=ATTENTION.values())
def test_gradients(liv: int) -> None:
    peer = llama(64, 4, liv)
    model = with_weights_of(peer, 64, 4, liv)
    tokens = random_tokens(2, 23)
    weights = torch.randn(2, 23, VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (model(tokens) * weights).sum().backward()
    theirs = in_our_names(gradients_of(peer, tokens, weights), heads(liv, 64)[2])
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-11, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("positions", ["from the mask", "as they stand"])
@pytest.mark.parametrize("liv", ATTENTION, ids=ATTENTION.values())
def test_left_padding(liv: int, positions: str) -> None:
    peer = llama(64, 4, liv)
    model = with_weights_of(peer, 64, 4, liv)
    tokens, mask = left_padded([19, 30, 7])
    # Llama's generation counts positions from the first real token, its plain forward pass from the first column.
    options = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if positions == "from the mask" else {}
    theirs = logits_of(peer, tokens, attention_mask=mask, **options)
    real = mask.bool()
    with torch.no_grad():
        torch.testing.assert_close(model(tokens, attention_mask=mask)[real], theirs[real], **EXACT)
        state = model.init_state(3, 30)
        parts = [model(tokens[:, :27], state=state, attention_mask=mask[:, :27]), model(tokens[:, 27:], state=state)]
        torch.testing.assert_close(torch.cat(parts, 1)[real], theirs[real], **EXACT)


def test_right_padding() -> None:
    peer = llama(64, 4)
    model = with_weights_of(peer, 64, 4)
    tokens, mask = (tensor.flip(1) for tensor in left_padded([19, 30, 7]))
    theirs = logits_of(peer, tokens, attention_mask=mask)
    with torch.no_grad():
        ours = model(tokens, attention_mask=mask)
    torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], **EXACT)


@pytest.mark.parametrize("chunks", [[1] * 24, [7, 1, 1, 12, 3], [24]], ids=["tokens", "mixed", "whole"])
@pytest.mark.parametrize("liv", ATTENTION, ids=ATTENTION.values())
def test_our_cached_passes_give_their_full_pass(liv: int, chunks: list[int]) -> None:
    peer = llama(64, 4, liv)
    model = with_weights_of(peer, 64, 4, liv)
    tokens = random_tokens(2, 24)
    state = model.init_state(2, 24)
    with torch.no_grad():
        ours = torch.cat([model(part, state=state) for part in tokens.split(chunks, 1)], 1)
    torch.testing.assert_close(ours, logits_of(peer, tokens), **EXACT)


def test_greedy_text_of_a_padded_batch() -> None:
    peer = llama(64, 4, 4)
    model = with_weights_of(peer, 64, 4, 4)
    tokens, mask = left_padded([9, 14])
    with torch.no_grad(), Float64():
        theirs = peer.generate(tokens, attention_mask=mask, max_new_tokens=20, do_sample=False)[:, 14:]
    ours = torch.stack(list(model.generate(tokens, attention_mask=mask, max_new_tokens=20, temperature=0)), 1)
    assert torch.equal(ours, theirs)


def test_their_own_arithmetic_differs_by_float32_roundings_only() -> None:
    """As published, the peer takes norms and rotary phases through float32, whatever its weights are."""
    peer = llama(64, 8)
    tokens = random_tokens(2, 41)
    with torch.no_grad():
        ours, theirs = with_weights_of(peer, 64, 8)(tokens), peer(tokens).logits
        single = with_weights_of(peer, 64, 8).float()(tokens)
    assert theirs.dtype == torch.float64
    assert float((ours - theirs).abs().max()) > 1e-9  # so that float64 above is really needed
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(single.double(), theirs, rtol=1e-4, atol=1e-4)


def test_the_comparison_notices_a_wrong_pair_order() -> None:
    """The mapping is not vacuous: without the permutation of q and k the logits are others."""
    peer = llama(64, 4)
    model = with_weights_of(peer, 64, 4)
    plain = in_our_names(peer.state_dict(), size=2)  # heads of size 2: pairs stay where they are
    model.load_state_dict(plain, strict=True)
    tokens = random_tokens(2, 41)
    with torch.no_grad():
        assert float((model(tokens) - logits_of(peer, tokens)).abs().max()) > 1e-2
