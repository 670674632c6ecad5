"""Weights of parents in their children: all bits of what is unchanged, nothing of the rest; unreadable files."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from star.data import prepare
from star.errors import StarError
from star.genome import OptionPool, mutate, random_genome
from star.lm import LanguageModel
from star.synthesis import Recipe
from star.synthesis.inheritance import Heritage, Parent, inherited
from star.synthesis.trial import Trial, train_candidate
from star.synthesis.weights import begin_with, forget_weights, keep_weights

FULL = OptionPool.full()
POOL = FULL.with_extensions("residual", "paths", "routing", "depth")
TOKENS = torch.arange(12).reshape(2, 6)


def model_of(genome: object, seed: int, pool: OptionPool = POOL, *, tied: bool = True) -> LanguageModel:
    return LanguageModel.from_genome(
        str(genome), pool=pool, width=16, vocab_size=12, length=8, seed=seed, tie_embeddings=tied
    )


def trained(genome: object, seed: int, pool: OptionPool = POOL, *, tied: bool = True) -> LanguageModel:
    """As if it had been trained: every weight is somewhere else than at the start."""
    model = model_of(genome, seed, pool, tied=tied)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=generator) + 0.1)
    return model


def kept(model: LanguageModel, folder: Path, name: str) -> Parent:
    path = folder / f"{name}.safetensors"
    keep_weights(model, path)
    return Parent(name, str(model.backbone.genome), path)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_what_is_unchanged_has_the_bits_of_its_parent_and_all_else_those_of_its_seed(
    tmp_path_factory: pytest.TempPathFactory, seed: int, tied: bool
) -> None:
    rng, folder = Random(seed), tmp_path_factory.mktemp("weights")
    pool = OptionPool("few", tuple(FULL[liv] for liv in rng.sample(FULL.ids, rng.randint(1, 3))), POOL.extensions)
    first = random_genome(pool, rng.randint(1, 6), rng)
    second, child = (mutate(first, pool, rng, 0.08).canonical(pool) for _ in range(2))
    parents = [trained(first.canonical(pool), 1, pool, tied=tied), trained(second, 2, pool, tied=tied)]
    heritage = Heritage(tuple(kept(model, folder, str(place)) for place, model in enumerate(parents)))
    fresh, model = model_of(child, 3, pool, tied=tied), model_of(child, 3, pool, tied=tied)
    sources = begin_with(model, heritage)
    assert sources == inherited(child, [parent.backbone.genome for parent in parents], pool)

    unseen = dict(model.tensors())
    for part in ("embedding", "norm", "head"):  # each compared as a module, so that names play no part
        for name, tensor in getattr(model, part).state_dict().items():
            assert torch.equal(tensor, getattr(parents[0], part).state_dict()[name])
            unseen.pop(f"{part}.{name}", None)
    for number, (stage, source) in enumerate(zip(model.backbone.stages, sources, strict=True)):
        other = fresh if source is None else parents[source]
        theirs = (
            next(n for n, each in enumerate(other.backbone.stages) if each.livs == stage.livs)
            if source is not None
            else number
        )
        pairs = [(model.backbone.norms[number], other.backbone.norms[theirs], f"norms.{number}")]
        pairs += [(model.backbone.livs[index], other.backbone.livs[index], f"livs.{index}") for index in stage.livs]
        if str(number) in model.backbone.routers:
            pairs.append(
                (model.backbone.routers[str(number)], other.backbone.routers[str(theirs)], f"routers.{number}")
            )
        for own, their, prefix in pairs:
            names = [name for name in own.state_dict() if f"backbone.{prefix}.{name}" in unseen]
            for name in names:
                assert torch.equal(own.state_dict()[name], their.state_dict()[name]), (prefix, name)
                del unseen[f"backbone.{prefix}.{name}"]
            if source is not None:  # what it uses of other LIVs' weights, too
                assert all(torch.equal(own.state_dict()[name], tensor) for name, tensor in their.state_dict().items())
    assert unseen == {}, "nothing has been left out"


def test_a_network_that_is_unchanged_up_to_a_point_computes_the_same_up_to_there(tmp_path: Path) -> None:
    parent = trained("11111 91111 12112 51111 92121", 1, FULL).eval()
    child = model_of("11111 91111 12112 61111 92121", 2, FULL).eval()
    before = model_of("11111 91111 12112 61111 92121", 2, FULL).eval()
    begin_with(child, Heritage((kept(parent, tmp_path, "1"),)))
    with torch.no_grad():
        seen = [_after(model, 3) for model in (parent, child, before)]
    assert torch.equal(seen[0], seen[1])
    assert not torch.allclose(seen[0], seen[2])


def _after(model: LanguageModel, stages: int) -> torch.Tensor:
    """The residual stream that stage ``stages`` reads."""
    found: list[torch.Tensor] = []
    hook = model.backbone.norms[stages].register_forward_hook(lambda module, inputs, output: found.append(output))
    norm = model.backbone.norms[stages]
    after = norm.after
    norm.after = lambda x, update: (found.append(x if update is None else x + update), after(x, update))[1]
    try:
        model(TOKENS)
    finally:
        del norm.after
        hook.remove()
    return found[0]


def test_a_trial_trains_from_what_it_inherits_and_keeps_what_it_has_trained(recipe: Recipe, tmp_path: Path) -> None:
    corpus = prepare(recipe.data, length=recipe.training.length)
    pool = recipe.pool
    parent = Trial("1", "11111 91111", pool, recipe, corpus.path, 1, 2, weights=tmp_path / "w" / "1.safetensors")
    alone = train_candidate(replace(parent, weights=None), lambda report: None)
    first = train_candidate(parent, lambda report: None)
    assert first == alone, "keeping weights changes nothing"
    heritage = Heritage((Parent("1", parent.genome, parent.weights or Path()),))
    child = Trial("2", "11111 51111", pool, recipe, corpus.path, 3, 2, heritage=heritage)
    scores = [train_candidate(child, lambda report: None) for _ in range(2)]
    assert scores[0] == scores[1]
    orphan = train_candidate(replace(child, heritage=None), lambda report: None)
    assert scores[0].curve[0][1] < orphan.curve[0][1], "its embedding and its attention have learned before"
    model = LanguageModel.from_genome("11111 91111", width=32, vocab_size=corpus.vocab_size, length=64, seed=0)
    assert begin_with(model, heritage) == (0, 0)
    from star.evaluation import perplexity

    found = perplexity(model, corpus.validation, length=64, tokens=512)
    assert found.perplexity == pytest.approx(first.metrics["perplexity"], rel=1e-6), "the weights are the trained ones"
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["1.safetensors"]


def test_missing_damaged_and_foreign_weights_are_told_in_a_sentence(tmp_path: Path) -> None:
    parent = kept(trained("11111 91111", 1, FULL), tmp_path, "7")
    other = kept(trained("21111 91111", 1, FULL), tmp_path, "8")
    child = model_of("11111 51111", 2, FULL)
    untouched = {name: tensor.clone() for name, tensor in child.tensors().items()}
    shutil.copy(other.weights, parent.weights)
    with pytest.raises(StarError, match=r"holds the weights of 21111 91111, not of candidate 7; put the file back"):
        begin_with(child, Heritage((parent,)))
    parent.weights.write_bytes(parent.weights.read_bytes()[:100])
    with pytest.raises(StarError, match=r"the weights of its parent, .*7\.safetensors, are damaged"):
        begin_with(child, Heritage((parent,)))
    save_file({"x": torch.zeros(1)}, parent.weights, metadata={"genome": "11111 91111"})
    with pytest.raises(StarError, match=r"are damaged .*embedding"):
        begin_with(child, Heritage((parent,)))
    parent.weights.unlink()
    with pytest.raises(StarError, match=r"of its parent, candidate 7, are missing"):
        begin_with(child, Heritage((parent,)))
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in child.tensors().items())


def test_weights_are_written_whole_and_forgotten_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = trained("11111 91111", 1, FULL), tmp_path / "weights" / "1.safetensors"
    keep_weights(model, path)
    whole = load_file(path)
    assert whole.keys() == model.tensors().keys()

    def full_disk(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_disk)
        with pytest.raises(StarError, match=r"cannot be kept for children .*No space left on device.*: make room"):
            keep_weights(trained("11111 91111", 2, FULL), path)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in load_file(path).items()), "the old ones are whole"
    assert len(list(path.parent.iterdir())) == 2, "and beside them what was being written"
    keep_weights(model, path)
    assert [each.name for each in path.parent.iterdir()] == ["1.safetensors"]
    for name in ("2", "11"):
        keep_weights(model, path.with_name(f"{name}.safetensors"))
    (path.parent / ".2.safetensors.99").write_bytes(b"half")
    forget_weights(path.parent, {"1", "3"})
    assert [each.name for each in path.parent.iterdir()] == ["1.safetensors"]
    forget_weights(tmp_path / "nowhere", set())
