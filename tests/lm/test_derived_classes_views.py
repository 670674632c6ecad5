"""Classes that mutations inside others lead to: they build, and all views of them are one operator."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from views import POOL, VOCAB, check_gradients, check_trains, check_views

from star import BackboneGenome, LanguageModel, StarError
from star.genome import FeaturizerGenome, LivClass, OptionPool, mutate_inside, random_genome
from star.genome.derivation import derived
from star.genome.meaning import settled
from star.genome.sampling import random_class
from star.lm import analyse
from star.lm.flops import forward_flops
from star.synthesis.pools import require_width

WIDTH = 32
OPERATORS = POOL.with_extensions("operators")


def fits(row: LivClass) -> bool:
    try:
        require_width(row, WIDTH)
    except StarError:
        return False
    return all(group.expansion <= 16 for group in row.featurizer)  # so that written-out operators stay small


def model_of(genome: BackboneGenome, pool: OptionPool) -> LanguageModel:
    return LanguageModel.from_genome(genome, width=WIDTH, vocab_size=VOCAB, pool=pool, length=64, seed=1)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(POOL.rows), st.integers(0, 2**20), st.integers(1, 8))
def test_derived_classes_have_one_meaning_in_all_views(row: LivClass, seed: int, steps: int) -> None:
    rng = Random(seed)
    for _ in range(steps):
        row = derived(row, rng, fits) or row
    model = model_of(BackboneGenome.parse("1.1.1.1.1"), OptionPool("one", (replace(row, id=1),))).double()
    check_trains(model)
    check_views(model, rng, length=19)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**20), st.integers(2, 5))
def test_derived_backbones_with_sharing_have_one_meaning_in_all_views(seed: int, depth: int) -> None:
    rng = Random(seed)
    genome, pool = random_genome(OPERATORS, depth, rng), OPERATORS
    for _ in range(3):
        genome, pool = mutate_inside(genome, pool, rng, 0.5, base=OPERATORS, fits=fits)
    model = model_of(genome, pool).double()
    check_views(model, rng, length=17)
    check_gradients(model, rng, length=9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**20))
def test_integers_without_effect_build_the_same_network(seed: int) -> None:
    row = random_class(1, Random(seed))
    if not fits(row):
        return
    groups = tuple(settled(name, group) for name, group in row.groups.items())
    pools = [OptionPool("one", (each,)) for each in (row, replace(row, featurizer=FeaturizerGenome(groups)))]
    genome = BackboneGenome.parse("1.1.1.1.1 1.1.2.1.1")
    costs = [analyse(genome, pool, width=WIDTH, length=40) for pool in pools]
    assert costs[0] == costs[1]
    flops = [forward_flops(genome, pool, width=WIDTH, length=40) for pool in pools]
    assert flops[0] == flops[1]
    tokens = torch.randint(0, VOCAB, (2, 11), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        outputs = [model_of(genome, pool)(tokens) for pool in pools]
    assert torch.equal(*outputs)


@pytest.mark.parametrize("liv", POOL.ids)
def test_the_same_network_has_the_same_digest_wherever_its_classes_stand(liv: int) -> None:
    pool = OptionPool("moved", (replace(POOL[liv], id=1005, name="moved"),))
    other = OptionPool("moved", (replace(POOL[liv], id=2000, name="again"),))
    assert BackboneGenome.parse("1005.1.1.1.1").digest(pool) == BackboneGenome.parse("2000.1.1.1.1").digest(other)
