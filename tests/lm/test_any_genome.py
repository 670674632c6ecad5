"""Any meaningful operator and featurizer genome: compiles from data, and all its views are the same operator."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from views import VOCAB, check_gradients, check_trains, check_views

from star import BackboneGenome, LanguageModel, OperatorGenome, OptionPool, StarError
from star.genome import FeaturizerGenome, LivClass, problems, random_genome, wiring
from star.genome.meaning import refusals
from star.genome.sampling import random_class
from star.lm import analyse

WIDTH = 32


def random_pool(seed: int, rows: int) -> OptionPool:
    """Random classes that exist at `WIDTH` (a repeat must divide the heads there)."""
    found: list[LivClass] = []
    attempt = 0
    while len(found) < rows:
        row = random_class(len(found) + 1, Random(seed * 1000 + attempt))
        attempt += 1
        try:
            analyse(
                random_genome(OptionPool("one", (row,)), 1, Random(0)), OptionPool("one", (row,)), width=WIDTH, length=8
            )
        except StarError:
            continue
        found.append(row)
    return OptionPool("random", tuple(found))


def model_of(seed: int, rows: int, depth: int) -> LanguageModel:
    pool = random_pool(seed, rows)
    genome = random_genome(pool, depth, Random(seed))
    return LanguageModel.from_genome(genome, width=WIDTH, vocab_size=VOCAB, pool=pool, length=64, seed=1)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**20))
def test_random_operator_genomes_have_one_meaning_in_all_views(seed: int) -> None:
    model = model_of(seed, 1, 1)
    check_trains(model.double())
    check_views(model, Random(seed), length=21)
    check_gradients(model, Random(seed), length=13)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**20), st.integers(2, 5))
def test_random_backbones_with_sharing_over_random_classes(seed: int, depth: int) -> None:
    model = model_of(seed, 2, depth).double()
    check_views(model, Random(seed), length=17)
    check_gradients(model, Random(seed), length=9)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**20))
def test_views_agree_in_float32_too(seed: int) -> None:
    check_views(model_of(seed, 2, 3), Random(seed), length=21, tolerance=1e-4)


@settings(max_examples=1500, deadline=None)
@given(st.integers(0, 2**20), st.integers(2, 7), st.integers(1, 2))
def test_canonical_form_over_random_classes(seed: int, depth: int, rows: int) -> None:
    pool = OptionPool("random", tuple(random_class(liv, Random(seed + liv)) for liv in range(1, rows + 1)))
    genome = random_genome(pool, depth, Random(seed))
    canonical = genome.canonical(pool)
    assert problems(canonical, pool) == []
    assert wiring(canonical, pool) == wiring(genome, pool)
    assert canonical.canonical(pool) == canonical


def test_a_constant_inherited_beside_a_taken_group_stays_where_it_is() -> None:
    strategies = ((), ("q",), ("k",), ("v",), ("q", "k"), ("k", "v"))
    row = LivClass(1, "c", OperatorGenome.parse("12221"), FeaturizerGenome.parse("1113111-2414111-1114111"), strategies)
    pool = OptionPool("constant", (row,))
    genome = BackboneGenome.parse("12234 11116 14216 14232 14242")
    assert wiring(genome.canonical(pool), pool) == wiring(genome, pool)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 5), st.integers(1, 60))
def test_cache_bytes_are_the_bytes_allocated_for_random_classes(seed: int, depth: int, length: int) -> None:
    model = model_of(seed, 2, depth)
    cost = analyse(model.config.genome, model.config.pool, width=WIDTH, length=length, element_bytes=4)
    assert model.init_state(2, length).nbytes == 2 * cost.cache_bytes


@pytest.mark.parametrize(
    ("operator", "featurizer", "reason"),
    [
        ("11142", "1111211-1111211-1111211", "needs 2 feature groups"),
        ("11122", "1111241-1111241", "softmax over the one position"),
        ("11222", "1111241-1111241", "banded and block-diagonal already"),
        ("13121", "1321111-2321111-1321111", "breaks the Toeplitz structure"),
        ("14131", "1111211-1111211-1111211-1111211-1111211", "no linear recurrence"),
        ("14211", "1111211-1111211-1111211-1111211-1111211", "cuts off the state"),
        ("13111", "1321111-1321111-1321111", "depends on the lag alone"),
        ("12123", "3111211-1111211-1111211", "only K is a function of the lag"),
        ("12123", "1111211-1111211-2111211", "nothing is left of the sequence"),
        ("12123", "1411211-1111211-1111211", "elementwise nonlinearities"),
        ("12123", "1111211-1111212-1111211", "one repeat"),
        ("12123", "1111221-1111211-1111211", "one expansion"),
        ("12123", "1112211-1111211-1111211", "softmax on a feature group"),
        ("12123", "1111121-1111121-1111211", "diagonal channel mixing"),
        ("13111", "2321111-2321111-2321111", "same for every input"),
    ],
)
def test_every_refusal_gives_its_reason(operator: str, featurizer: str, reason: str) -> None:
    genomes = OperatorGenome.parse(operator), FeaturizerGenome.parse(featurizer)
    assert any(reason in found for found in refusals(*genomes))
    with pytest.raises(StarError, match="has no meaning"):
        LivClass(1, "refused", *genomes)


def test_sliding_window_attention_keeps_the_window_only() -> None:
    row = LivClass(1, "SWA", OperatorGenome.parse("12223"), OptionPool.paper()[1].featurizer, window=100)
    pool = OptionPool("swa", (row,))
    costs = [
        analyse(random_genome(pool, 1, Random(0)), pool, width=64, length=length).cache_bytes
        for length in (50, 1000, 9000)
    ]
    assert costs == [2 * 64 * 50 * 2, 2 * 64 * 99 * 2, 2 * 64 * 99 * 2]
