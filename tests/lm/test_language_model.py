"""Language models over any genome: trainable, causal, the same by parallel pass, by chunks and token by token."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from views import VOCAB, check_gradients, check_trains, check_views, tiny

import star
from star import BackboneGenome, LanguageModel, OptionPool, StarError, preset
from star.genome import random_genome, wiring
from star.lm import analyse

POOL = OptionPool.full()


@pytest.mark.parametrize("liv", POOL.ids)
def test_every_class_alone(liv: int) -> None:
    model = tiny(f"{liv}.1.1.1.1")
    check_trains(model)
    check_views(model, Random(liv))
    check_gradients(model, Random(liv))


@pytest.mark.parametrize(
    ("liv", "strategy"), [(liv, s) for liv in POOL.ids for s in range(1, len(POOL[liv].strategies) + 1)]
)
@pytest.mark.parametrize("weights", [1, 2])
def test_every_sharing_strategy(liv: int, strategy: int, weights: int) -> None:
    genome = BackboneGenome.parse(f"{liv}.1.1.1.1 9.1.1.1.1 {liv}.1.{weights}.1.{strategy}")
    model = tiny(genome)
    check_trains(model)
    check_views(model, Random(strategy))
    check_gradients(model, Random(strategy))
    alone = tiny(f"{liv}.1.1.1.1 9.1.1.1.1 {liv}.2.1.2.1")
    fewer = sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in alone.parameters())
    assert fewer == (strategy > 1 or weights > 1)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.sampled_from([16, 32]))
def test_random_backbones_build_train_and_are_causal(seed: int, depth: int, width: int) -> None:
    model = tiny(random_genome(POOL, depth, Random(seed)), width)
    check_trains(model)
    if seed % 4 == 0:
        check_views(model, Random(seed), length=19)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 200))
def test_cache_bytes_are_the_bytes_allocated(seed: int, depth: int, length: int) -> None:
    genome = random_genome(POOL, depth, Random(seed))
    model = LanguageModel.from_genome(genome, width=32, vocab_size=VOCAB, pool=POOL)
    cost = analyse(genome, POOL, width=32, length=length, element_bytes=4)
    assert model.init_state(1, length).nbytes == cost.cache_bytes
    assert model.init_state(3, length).nbytes == 3 * cost.cache_bytes
    assert cost.parameters == sum(p.numel() for p in model.parameters()) - model.embedding.weight.numel()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 8))
def test_canonical_genome_is_the_same_network(seed: int, depth: int) -> None:
    genome = random_genome(POOL, depth, Random(seed))
    tokens = torch.randint(0, VOCAB, (1, 9))
    one, other = tiny(genome, 16), tiny(genome.canonical(POOL), 16)
    with torch.no_grad():
        torch.testing.assert_close(one(tokens), other(tokens), rtol=0, atol=0)


WIDTH, LENGTH = 768, 4096


@pytest.mark.parametrize(
    ("liv", "parameters", "elements"),
    [
        (1, 4.0, 2 * WIDTH * LENGTH),
        (2, 4.0, 2 * WIDTH * LENGTH + 6 * WIDTH),
        (3, 2.5, 2 * WIDTH * LENGTH // 4),
        (4, 3.0, 2 * WIDTH * LENGTH // 2),
        (5, 3.0, 16 * WIDTH + 2 * WIDTH),
        (6, 3.0, 2 * WIDTH + 2 * WIDTH),
        (7, 1.0, 6 * WIDTH),
        (8, 1.0, WIDTH * LENGTH + 4 * WIDTH),
        (9, 3 * 2048 / WIDTH, 0),
    ],
)
def test_costs_of_the_paper_pool(liv: int, parameters: float, elements: int) -> None:
    for row, copies in ((liv, 1), (liv + 9, 2)):
        if row > 17:
            continue
        cost = analyse(BackboneGenome.parse(f"{row}.1.1.1.1"), POOL, width=WIDTH, length=LENGTH)
        # "+ small" of A.6: convolution taps, step-size and state projections, norms
        assert copies * parameters <= cost.parameters / WIDTH**2 < copies * (parameters + 0.25) + 0.01
        assert cost.cache_bytes == 2 * copies * elements


@pytest.mark.parametrize(
    ("liv", "squares", "more", "elements"),
    [
        (18, 4, 0, 64 * WIDTH),  # k ⊗ v of each head
        (19, 4, 0, 2 * 63 * WIDTH),  # the window but the present token
        (20, 2, WIDTH * (3 * 64 + 3), 64 * WIDTH),  # decay and frequency of 32 modes, B, C: 3 N; Δ, D, and the scale B
        (21, 3, WIDTH * (3 * 16 + 2), 16 * WIDTH),
        (22, 0, 2 * 2 * 24 * WIDTH + WIDTH * (3 * 64 + 3), 64 * WIDTH),  # two Monarch maps in place of dense ones
        (23, 4, WIDTH, 64 * WIDTH),  # gate, shift with its bias, value, output
        (24, 5, 2 * WIDTH, 2 * 64 * WIDTH),
    ],
)
def test_costs_of_the_extended_pool(liv: int, squares: int, more: int, elements: int) -> None:
    for row, copies in ((liv, 1), (liv + 7, 2)):
        cost = analyse(BackboneGenome.parse(f"{row}.1.1.1.1"), POOL, width=WIDTH, length=LENGTH)
        assert cost.parameters == copies * (squares * WIDTH**2 + more) + 2 * WIDTH  # and the norms
        assert cost.cache_bytes == 2 * copies * elements


@pytest.mark.parametrize(
    ("name", "depth", "width", "parameters", "cache"),
    [
        ("transformer++", 24, 768, (84.5e6, 85.5e6), (150_994_944, 150_994_944)),
        ("striped-mamba", 24, 768, (79.5e6, 81e6), (25.65e6, 25.75e6)),
        ("transformer++", 48, 2048, (1.15e9, 1.25e9), (805_306_368, 805_306_368)),
        ("striped-mamba", 48, 2048, (1.05e9, 1.15e9), (136e6, 137.1e6)),
    ],
)
def test_baselines_have_the_size_and_cache_of_the_paper(
    name: str, depth: int, width: int, parameters: tuple[float, float], cache: tuple[float, float]
) -> None:
    genome, pool = preset(name, depth)
    cost = analyse(genome, pool, width=width, length=4096)
    assert parameters[0] <= cost.parameters <= parameters[1]
    assert cache[0] <= cost.cache_bytes <= cache[1]


def test_a_shared_key_is_stored_once() -> None:
    cost = analyse(BackboneGenome.parse("11111 11212"), POOL, width=64, length=100)
    assert [row.cache_bytes for row in cost.rows] == [2 * 64 * 100 * 2, 64 * 100 * 2]


def test_feature_sharing_uses_the_very_tensor_of_the_source() -> None:
    model = tiny("11111 12114")
    source, taker = (liv.operators[0] for liv in model.backbone.livs)
    assert set(taker.featurizer.groups) == {"q"}
    assert set(source.featurizer.groups) == {"q", "k", "v"}
    with torch.no_grad():
        source.featurizer.groups["v"].project.weight.zero_()
        x = torch.randn(1, 5, 32, dtype=torch.float64)
        assert torch.equal(model.backbone(x), x)  # both value groups are the one that is zero


def test_checkpoints_hold_each_shared_weight_once_and_give_the_same_model(tmp_path: Path) -> None:
    genome = "11111 8.1.1.1.1 11221 8.1.2.1.1 9.1.1.1.1"
    model = LanguageModel.from_genome(genome, width=32, vocab_size=VOCAB, length=48, tie_embeddings=True, seed=3)
    model.save(tmp_path)
    again = LanguageModel.load(tmp_path)
    assert wiring(again.config.genome, again.config.pool) == wiring(model.config.genome, model.config.pool)
    tokens = torch.randint(0, VOCAB, (2, 30))
    torch.testing.assert_close(again(tokens), model(tokens), rtol=0, atol=0)
    assert again.config == model.config
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(StarError, match=r"model\.safetensors is missing"):
        LanguageModel.load(tmp_path)


def test_seed_fixes_the_weights_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = LanguageModel.from_genome("51111 91111", width=32, vocab_size=VOCAB, seed=7)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    other = LanguageModel.from_genome("51111 91111", width=32, vocab_size=VOCAB, seed=7)
    third = LanguageModel.from_genome("51111 91111", width=32, vocab_size=VOCAB, seed=8)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not torch.equal(one.embedding.weight, third.embedding.weight)


def test_decay_and_step_size_parameters_are_marked() -> None:
    model = tiny("51111 8.1.1.1.1")
    marked = {name.split(".")[-1] for name, p in model.named_parameters() if getattr(p, "no_weight_decay", False)}
    assert {"A_log", "D", "bias", "frequency", "present"} <= marked
    assert not any(
        getattr(p, "no_weight_decay", False) for n, p in model.named_parameters() if n.endswith("project.weight")
    )


def test_states_fork_reorder_and_refuse_what_they_cannot_do() -> None:
    model = tiny("11111 51111 71111 8.1.1.1.1")
    tokens = torch.randint(0, VOCAB, (2, 12))
    with torch.no_grad():
        state = model.init_state(2, 12)
        model(tokens[:, :6], state=state)
        fork = state.fork()
        first = model(tokens[:, 6:], state=state)
        torch.testing.assert_close(model(tokens[:, 6:], state=fork.fork()), first, rtol=1e-12, atol=1e-12)
        swapped = model(tokens[[1, 0, 1], 6:], state=fork.reorder(torch.tensor([1, 0, 1])))
        torch.testing.assert_close(swapped, first[[1, 0, 1]], rtol=1e-12, atol=1e-12)
        with pytest.raises(StarError, match="12 tokens"):
            model(tokens[:, :1], state=state)
        with pytest.raises(StarError, match="left"):
            model(tokens[:, :3], state=fork, attention_mask=torch.tensor([[1, 1, 0], [1, 1, 1]]))


def test_greedy_generation_is_repeated_argmax_also_in_padded_batches() -> None:
    model = tiny("11111 51111 91111 8.1.1.1.1")
    prompt = torch.randint(0, VOCAB, (1, 7))
    sequence = prompt
    with torch.no_grad():
        for _ in range(9):
            sequence = torch.cat([sequence, model(sequence)[:, -1:].argmax(-1)], 1)
    single = torch.stack(list(model.generate(prompt, max_new_tokens=9, temperature=0)), 1)
    assert torch.equal(single, sequence[:, 7:])
    other = torch.randint(0, VOCAB, (1, 11))
    batch = torch.cat([torch.cat([torch.zeros(1, 4, dtype=torch.long), prompt], 1), other])
    mask = torch.ones_like(batch)
    mask[0, :4] = 0
    both = torch.stack(list(model.generate(batch, max_new_tokens=9, temperature=0, attention_mask=mask)), 1)
    assert torch.equal(both[:1], single)
    assert torch.equal(both[1:], torch.stack(list(model.generate(other, max_new_tokens=9, temperature=0)), 1))


def test_sampling_keeps_to_top_k_and_top_p_and_stops() -> None:
    from star.lm.generation import sample

    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(500, 1)
    generator = torch.Generator().manual_seed(0)
    assert set(sample(logits, 1.0, 2, None, generator).tolist()) == {0, 1}
    assert set(sample(logits, 1.0, None, 0.7, generator).tolist()) == {0, 1}
    assert set(sample(logits, 1.0, None, 0.1, generator).tolist()) == {0}
    assert set(sample(logits, 1.0, None, None, generator).tolist()) == {0, 1, 2, 3}
    model = tiny("91111")
    everything = list(range(VOCAB))
    assert len(list(model.generate(torch.zeros(2, 1, dtype=torch.long), max_new_tokens=5, stop_tokens=everything))) == 1


@pytest.mark.parametrize("width", [0, -8, 7, 100])
def test_widths_that_do_not_fit_are_refused(width: int) -> None:
    with pytest.raises(StarError, match="width"):
        LanguageModel.from_genome("11111", width=width, vocab_size=VOCAB)


def test_invalid_genomes_are_refused_with_all_reasons() -> None:
    with pytest.raises(StarError, match=r"class 99.*strategy 7"):
        LanguageModel.from_genome("99.1.1.1.1 1.1.1.1.7", width=32, vocab_size=VOCAB)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_shortest_sequences(length: int) -> None:
    for liv in POOL.ids:
        y = LanguageModel.from_genome(f"{liv}.1.1.1.1", pool=POOL, width=16, vocab_size=VOCAB)(
            torch.zeros(1, length, dtype=torch.long)
        )
        assert y.shape == (1, length, VOCAB)
        assert y.isfinite().all()


def test_public_names_resolve() -> None:
    for name in star.__all__:
        assert getattr(star, name) is not None


def test_padding_may_come_in_several_chunks_also_with_gradients() -> None:
    model = tiny("11111 51111 71111")
    tokens = torch.randint(0, VOCAB, (2, 10))
    mask = torch.ones_like(tokens)
    mask[0, :6] = 0
    state = model.init_state(2, 10)
    chunks = [model(tokens[:, part], state=state, attention_mask=mask[:, part]) for part in (slice(3), slice(3, 10))]
    together = model(tokens, attention_mask=mask)
    gradients = [
        torch.autograd.grad(logits[mask.bool()].square().sum(), list(model.parameters()))
        for logits in (torch.cat(chunks, 1), together)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_refused_call_leaves_the_state_as_it_was() -> None:
    model = tiny("11111 51111")
    tokens = torch.randint(0, VOCAB, (2, 10))
    with torch.no_grad():
        state = model.init_state(2, 10)
        model(tokens[:, :4], state=state)
        with pytest.raises(StarError, match="left"):
            model(tokens[:, :3], state=state, attention_mask=torch.tensor([[1, 1, 0], [1, 1, 1]]))
        torch.testing.assert_close(model(tokens[:, 4:], state=state), model(tokens)[:, 4:], rtol=1e-9, atol=1e-9)


def test_trimming_forgets_padding_too() -> None:
    model = tiny("11111")
    tokens = torch.randint(0, VOCAB, (2, 10))
    mask = torch.ones_like(tokens)
    mask[0, :6] = 0
    with torch.no_grad():
        state = model.init_state(2, 10)
        model(tokens, state=state, attention_mask=mask)
        state.trim(0)
        torch.testing.assert_close(model(tokens, state=state), model(tokens), rtol=1e-9, atol=1e-9)


def test_states_and_masks_of_other_shapes_are_refused() -> None:
    model = tiny("11111")
    tokens = torch.zeros(1, 6, dtype=torch.long)
    with pytest.raises(StarError, match="for 2 sequences, not for 1"):
        model(tokens, state=model.init_state(2, 16))
    with pytest.raises(StarError, match="attention mask"):
        model(tokens, attention_mask=torch.ones(1, 5))
    for batch_size, max_length in ((0, 5), (1, 0), (1, -1)):
        with pytest.raises(StarError, match="cannot be made"):
            model.init_state(batch_size, max_length)
    with pytest.raises(StarError, match="width"):
        LanguageModel.from_genome("11111", width=8 << 40, vocab_size=VOCAB)


def test_everything_a_state_holds_after_a_step_is_counted() -> None:
    for liv in POOL.ids:
        model = tiny(f"{liv}.1.1.1.1 9.1.1.1.1")
        state = model.init_state(1, 16)
        with torch.no_grad():
            for _ in range(3):
                model(torch.zeros(1, 1, dtype=torch.long), state=state)
        held = sum(tensor.nbytes for branches in state.livs for branch in branches for tensor in branch.values())
        assert held == state.nbytes


def test_a_decoding_filter_follows_its_weights() -> None:
    model = tiny("8.1.1.1.1")
    tokens = torch.randint(0, VOCAB, (1, 9))
    for _ in range(2):
        with torch.no_grad():
            state = model.init_state(1, 9)
            steps = torch.cat([model(tokens[:, t : t + 1], state=state) for t in range(9)], 1)
            torch.testing.assert_close(steps, model(tokens), rtol=1e-9, atol=1e-9)
            for parameter in model.parameters():
                parameter.mul_(1.5)


@pytest.mark.parametrize("liv", [8, 17, 20, 22, 27])
def test_decoding_after_an_optimiser_step_uses_the_new_weights(liv: int) -> None:
    """Fused optimisers change weights without a trace that a cache could see."""
    from star.training import TrainingRecipe
    from star.training.optimizer import adamw

    recipe = TrainingRecipe(tokens=64, batch_tokens=64, warmup_tokens=0, length=64, peak_learning_rate=0.1)
    model = tiny(f"{liv}.1.1.1.1 9.1.1.1.1").float()
    tokens = torch.randint(0, VOCAB, (1, 9))
    optimizer = adamw(model, recipe)
    for _ in range(2):
        with torch.no_grad():
            state = model.init_state(1, 9)
            steps = torch.cat([model(tokens[:, t : t + 1], state=state) for t in range(9)], 1)
            torch.testing.assert_close(steps, model(tokens), rtol=1e-4, atol=1e-4)
        model.loss(tokens, tokens.flip(1)).backward()
        optimizer.step()


def test_models_made_in_inference_mode_decode() -> None:
    with torch.inference_mode():
        for liv in (8, 20, 21, 22, 24):
            model = tiny(f"{liv}.1.1.1.1")
            tokens = torch.randint(0, VOCAB, (1, 5))
            state = model.init_state(1, 5)
            steps = torch.cat([model(tokens[:, t : t + 1], state=state) for t in range(5)], 1)
            torch.testing.assert_close(steps, model(tokens), rtol=1e-9, atol=1e-9)
