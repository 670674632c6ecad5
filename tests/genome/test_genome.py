"""Genomes: text, canonical form, validity, repair, variation, the paper's printed genomes."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star.errors import StarError
from star.genome import (
    BackboneGenome,
    OptionPool,
    Segment,
    crossover,
    initial_population,
    mutate,
    preset,
    problems,
    random_genome,
    repair,
    wiring,
)

POOL = OptionPool.paper()
seeds = st.integers(0, 2**32)
depths = st.integers(1, 24)


def genome_of(seed: int, depth: int) -> BackboneGenome:
    return random_genome(POOL, depth, Random(seed))


@pytest.mark.parametrize(
    "text",
    ["11111 91111 12121 92121", "11111 91111 51111 92121", "11111 91111 51111 92121 11221 91131"],
)
def test_genomes_printed_in_a61_are_valid(text: str) -> None:
    genome = BackboneGenome.parse(text)
    assert problems(genome, POOL) == []
    assert str(genome) == text


def test_first_two_a61_genomes_share_nothing() -> None:
    for text in ("11111 91111 12121 92121", "11111 91111 51111 92121"):
        wires = wiring(BackboneGenome.parse(text), POOL)
        assert all(not taken for taken in wires.taken)
        assert all(owner == index for index, owns in enumerate(wires.owners) for owner in owns.values())


def test_third_a61_genome_shares_the_featurizer_of_its_two_attentions_only() -> None:
    wires = wiring(BackboneGenome.parse("11111 91111 51111 92121 11221 91131"), POOL)
    assert wires.owners[4] == {"q": 0, "k": 0, "v": 0}
    assert all(owner == index for index in (0, 1, 2, 3, 5) for owner in wires.owners[index].values())
    assert all(not taken for taken in wires.taken)


def test_section_31_example_shares_featurizer_in_class_2_and_keys_in_class_3() -> None:
    # A.6 wins over 3.1 on the meaning of strategy 2 for attention: the key cache.
    wires = wiring(BackboneGenome.parse("21211-31112-21221-32112"), POOL)
    assert wires.owners[2] == {"q": 0, "k": 0, "v": 0}
    assert wires.taken[3] == {"k": 1}
    assert wires.owners[3] == {"q": 3, "v": 3}


@given(seeds, depths)
def test_text_round_trip(seed: int, depth: int) -> None:
    genome = genome_of(seed, depth)
    assert BackboneGenome.parse(str(genome)) == genome
    assert BackboneGenome.parse(str(genome).replace(" ", "-")) == genome
    dotted = " ".join(".".join(map(str, genome.integers[i : i + 5])) for i in range(0, 5 * depth, 5))
    assert BackboneGenome.parse(dotted) == genome
    assert BackboneGenome.from_integers(genome.integers) == genome


@pytest.mark.parametrize(
    "text", ["", "  ", "1111", "111111111", "1111a", "1.1.1.1", "1.1.1.1.x", "-", "1..1.1.1", "١١١١١"]
)
def test_unreadable_text_is_refused_with_one_sentence(text: str) -> None:
    with pytest.raises(StarError) as caught:
        BackboneGenome.parse(text)
    assert "\n" not in str(caught.value)


@settings(max_examples=400)
@given(seeds, depths)
def test_canonical_form_is_idempotent_valid_and_the_same_network(seed: int, depth: int) -> None:
    genome = genome_of(seed, depth)
    canonical = genome.canonical(POOL)
    assert problems(canonical, POOL) == []
    assert wiring(canonical, POOL) == wiring(genome, POOL)
    assert canonical.canonical(POOL) == canonical


@settings(max_examples=200)
@given(seeds, depths, seeds)
def test_renaming_sharing_groups_changes_nothing(seed: int, depth: int, other: int) -> None:
    genome, rng = genome_of(seed, depth), Random(other)
    livs = [segment.liv for segment in genome]
    names = {liv: rng.sample(range(1, livs.count(liv) + 1), livs.count(liv)) for liv in livs}
    renamed = BackboneGenome(
        tuple(
            Segment(
                s.liv,
                names[s.liv][s.featurizer_group - 1],
                s.featurizer_strategy,
                names[s.liv][s.feature_group - 1],
                s.feature_strategy,
            )
            for s in genome
        )
    )
    assert renamed.canonical(POOL) == genome.canonical(POOL)
    assert renamed.digest(POOL) == genome.digest(POOL)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("11111 11111", "11111 12121"),  # strategy 1 shares nothing
        ("11221 11221", "11111 11221"),  # a source's own strategy says nothing
        ("91113 91213", "91113 92113"),  # nothing is left to compute with shared weights
        ("71111 71222", "71111 71221"),  # shared weights include the kernel
        ("71111 71224", "71111 71223"),
    ],
)
def test_different_integers_of_one_network_have_one_canonical_form(one: str, other: str) -> None:
    first, second = BackboneGenome.parse(one), BackboneGenome.parse(other)
    assert first.canonical(POOL) == second.canonical(POOL)


def test_different_networks_differ() -> None:
    texts = ["11111 12121", "11111 11221", "11111 12112", "11111 12113", "11111 12114", "11111 11212"]
    digests = {BackboneGenome.parse(text).digest(POOL) for text in texts}
    assert len(digests) == len(texts)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("18.1.1.1.1", "class 18"),
        ("0.1.1.1.1", "class 0"),
        ("12111", "featurizer sharing group 2"),
        ("11131", "feature-group sharing group 3"),
        ("11311", "featurizer sharing strategy 3"),
        ("11115", "feature-group sharing strategy 5"),
        ("91114", "gate+up"),
    ],
)
def test_every_invalid_integer_is_named(text: str, reason: str) -> None:
    found = problems(BackboneGenome.parse(text), POOL)
    assert len(found) == 1
    assert reason in found[0]


@given(st.lists(st.integers(0, 25), min_size=5, max_size=60).filter(lambda v: len(v) % 5 == 0), seeds)
def test_repair_makes_any_integers_valid_and_keeps_what_was_valid(values: list[int], seed: int) -> None:
    genome = BackboneGenome.from_integers(values)
    repaired = repair(genome, POOL, Random(seed))
    assert problems(repaired, POOL) == []
    for before, after in zip(genome, repaired, strict=True):
        if before.liv in POOL:
            assert after.liv == before.liv
        if before.featurizer_strategy in (1, 2):
            assert after.featurizer_strategy == before.featurizer_strategy
    assert repair(repaired, POOL, Random(seed + 1)) == repaired


def test_repair_drops_an_invalid_connection_instead_of_drawing_another() -> None:
    genome = BackboneGenome.parse("11111 15221 12121")
    for seed in range(20):
        repaired = repair(genome, POOL, Random(seed))
        assert repaired.segments[1].featurizer_group == 3  # the one number that no other attention uses
        assert wiring(repaired, POOL).owners[1] == {"q": 1, "k": 1, "v": 1}


@given(seeds, st.integers(1, 12), seeds)
def test_variation_yields_valid_genomes(seed: int, depth: int, other: int) -> None:
    rng = Random(other)
    first, second = genome_of(seed, depth), genome_of(seed + 1, depth)
    children = crossover(first, second, POOL, rng, 2)
    mutant = mutate(first, POOL, rng, 0.3)
    for genome in (*children, mutant):
        assert problems(genome, POOL) == []
        assert genome.depth == depth


def test_mutation_rate_is_the_probability_of_each_integer() -> None:
    rng = Random(0)
    genome = genome_of(0, 24)
    changed = [
        sum(a.liv != b.liv for a, b in zip(genome, mutate(genome, POOL, rng, 0.1), strict=True)) for _ in range(400)
    ]
    assert 0.08 < sum(changed) / (400 * 24) < 0.12
    assert mutate(genome, POOL, rng, 0.0) == genome


def test_crossover_exchanges_segments_between_its_points() -> None:
    first = BackboneGenome.parse(" ".join(["11111", "12121", "13131"]))
    second = BackboneGenome.parse(" ".join(["91111", "92121", "93131"]))
    rng, inside = Random(1), 0
    for _ in range(200):
        one, two = crossover(first, second, POOL, rng, 2)
        assert sorted(s.liv for s in one) + sorted(s.liv for s in two) != []
        for index in range(3):
            assert {one.segments[index].liv, two.segments[index].liv} == {1, 9}
        inside += one not in (first, second)
    assert inside > 100


def test_initial_population_has_hybrids_of_every_mixing_class_and_no_twins() -> None:
    population = initial_population(POOL, 8, 16, Random(3))
    assert len({genome.digest(POOL) for genome in population}) == 16
    for liv, genome in zip(range(1, 9), population, strict=False):
        assert [segment.liv for segment in genome] == [liv, 9] * 4
        assert all(not taken for taken in wiring(genome, POOL).taken)
    assert all(problems(genome, POOL) == [] for genome in population)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 23, 24, 48])
@pytest.mark.parametrize("name", ["transformer++", "striped-mamba"])
def test_presets_are_valid_at_any_depth(name: str, depth: int) -> None:
    genome, pool = preset(name, depth)
    assert genome.depth == depth
    assert problems(genome, pool) == []


def test_striped_mamba_is_a3() -> None:
    genome, pool = preset("striped-mamba", 24)
    names = [pool[segment.liv].name for segment in genome]
    assert [index for index, name in enumerate(names) if name == "SA-1"] == [6, 18]
    assert names.count("Mamba") == 10
    assert names.count("GMemless") == 12
    twice, _ = preset("striped-mamba", 48)
    assert [s.liv for s in twice] == [s.liv for s in genome] * 2


def test_pool_survives_plain_data() -> None:
    again = OptionPool.from_dict(POOL.to_dict())
    assert again == POOL
    assert again.digest == POOL.digest


def test_genome_package_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, star.genome, star.evolution; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("integers", [[1, 1, 1], [1] * 6, [1, 1, -1, 1, 1], []])
def test_integers_that_make_no_segments_are_refused(integers: list[int]) -> None:
    with pytest.raises(StarError):
        BackboneGenome.from_integers(integers)


def test_an_invalid_genome_has_no_canonical_form() -> None:
    with pytest.raises(StarError, match="strategy 9"):
        BackboneGenome.parse("11119").digest(POOL)
