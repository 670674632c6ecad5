"""One canonical form for each network: against a brute-force comparison, and rewriting by rewriting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import description, stages_of

from star.genome import IDENTITY, BackboneGenome, LivClass, OptionPool, Segment, mutate, problems, random_genome
from star.genome.sampling import random_class

FULL = OptionPool.full()
ALL = ("residual", "paths", "routing", "depth")
POOL = FULL.with_extensions(*ALL)
Sharing = Callable[[int], tuple[int, int]]  # LIV → group, strategy
seeds = st.integers(0, 2**32)
depths = st.integers(1, 24)


def pool_of(*rows: LivClass | int, extensions: tuple[str, ...] = ALL) -> OptionPool:
    return OptionPool("tiny", tuple(row if isinstance(row, LivClass) else FULL[row] for row in rows), extensions)  # type: ignore[arg-type]


def few_classes(rng: Random, depth: int) -> BackboneGenome:
    """A genome over `POOL` with so few classes that much is shared and many paths are of one class."""
    return random_genome(pool_of(*rng.sample(FULL.ids, rng.randint(1, 3))), depth, rng)


def relatives(pool: OptionPool, depth: int, rng: Random, count: int) -> list[BackboneGenome]:
    """Random genomes and mutants of mutants, many of which build the same network."""
    found = [random_genome(pool, depth, rng)]
    while len(found) < count:
        stranger = len(found) % 3 == 0
        found.append(random_genome(pool, depth, rng) if stranger else mutate(rng.choice(found), pool, rng, 0.15))
    return found


def same(one: BackboneGenome, other: BackboneGenome, pool: OptionPool = POOL) -> bool:
    """Whether two genomes have one canonical form."""
    assert problems(one, pool) == problems(other, pool) == []
    return one.canonical(pool) == other.canonical(pool)


@settings(max_examples=100, deadline=None)
@given(seeds, st.sampled_from(("paper and extended", "one class", "random class", "two random classes")))
def test_canonical_genomes_are_equal_if_and_only_if_the_networks_are_isomorphic(seed: int, kind: str) -> None:
    rng = Random(seed)
    pool = {
        "paper and extended": lambda: pool_of(*rng.sample(FULL.ids, 2)),
        "one class": lambda: pool_of(rng.choice(FULL.ids), extensions=("paths",)),
        "random class": lambda: pool_of(random_class(1, rng), extensions=("paths", "routing")),
        "two random classes": lambda: pool_of(random_class(1, rng), random_class(2, rng), extensions=ALL[:3]),
    }[kind]()
    by_network: dict[tuple, BackboneGenome] = {}
    by_form: dict[BackboneGenome, tuple] = {}
    for genome in relatives(pool, rng.randint(2, 5), rng, 30):
        form, network = genome.canonical(pool), description(genome, pool)
        assert by_network.setdefault(network, form) == form, f"{genome} has another form than a genome of its network"
        assert by_form.setdefault(form, network) == network, f"{genome} has the form of another network"


@settings(max_examples=150, deadline=None)
@given(seeds, depths)
def test_canonical_form_is_idempotent_and_valid(seed: int, depth: int) -> None:
    for genome in (random_genome(POOL, depth, Random(seed)), few_classes(Random(seed), depth)):
        canonical = genome.canonical(POOL)
        assert problems(canonical, POOL) == []
        assert canonical.canonical(POOL) == canonical


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 5))
def test_canonical_form_is_the_same_network(seed: int, depth: int) -> None:
    genome = few_classes(Random(seed), depth)
    assert description(genome.canonical(POOL), POOL) == description(genome, POOL)


@settings(max_examples=60, deadline=None)
@given(seeds, depths, st.integers(1, 6))
def test_identities_anywhere_change_nothing(seed: int, depth: int, count: int) -> None:
    rng = Random(seed)
    genome = few_classes(rng, depth)
    segments = list(genome)
    for _ in range(count):
        segments.insert(rng.randint(0, len(segments)), Segment(IDENTITY, *(rng.randint(0, 99) for _ in range(7))))
    assert same(BackboneGenome(tuple(segments)), genome)
    assert BackboneGenome(tuple(segments)).digest(POOL) == genome.digest(POOL)


@settings(max_examples=60, deadline=None)
@given(seeds, depths)
def test_names_of_groups_change_nothing(seed: int, depth: int) -> None:
    rng = Random(seed)
    genome = few_classes(rng, depth)
    livs = [segment.liv for segment in genome]
    own = {liv: [rng.sample(range(1, livs.count(liv) + 1), livs.count(liv)) for _ in range(2)] for liv in set(livs)}
    overall = [[0, *rng.sample(range(1, depth + 1), depth)] for _ in range(2)]
    renamed = [
        s
        if s.is_identity
        else replace(
            s,
            featurizer_group=own[s.liv][0][s.featurizer_group - 1],
            feature_group=own[s.liv][1][s.feature_group - 1],
            residual_group=overall[0][s.residual_group],
            path_group=overall[1][s.path_group],
        )
        for s in genome
    ]
    assert same(BackboneGenome(tuple(renamed)), genome)


@settings(max_examples=60, deadline=None)
@given(seeds, depths)
def test_paths_of_different_classes_commute(seed: int, depth: int) -> None:
    rng = Random(seed)
    genome = few_classes(rng, depth)
    segments = list(genome)
    for stage in stages_of(genome):
        # An order of the stage in which each class keeps its own.
        classes = [genome.segments[index].liv for index in stage]
        queues = {
            liv: [genome.segments[index] for index in stage if genome.segments[index].liv == liv] for liv in classes
        }
        rng.shuffle(classes)
        lead = genome.segments[stage[0]]
        for place, (index, liv) in enumerate(zip(stage, classes, strict=True)):
            moved = queues[liv].pop(0)
            if place == 0:
                moved = replace(moved, residual_group=lead.residual_group, routing=lead.routing)
            segments[index] = moved
    assert same(BackboneGenome(tuple(segments)), genome)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1111101 1212101 1223101", "1111101 1122101 1213101"),  # which two of three share weights
        ("1111101 1211101 1221101 1121100", "1211101 1111101 1221101 1121100"),  # and a later LIV with the third
        ("1111101 1211101 1221100", "1111101 1211101 1121100"),  # with which of two twins a later LIV shares weights
        ("1111101 1212101 1311300", "1111101 1212101 1312300"),  # from which it takes values
        ("1111101 1212101 1311200 1412200", "1111101 1212101 1312200 1411200"),  # who is whose source
        ("2111101 2212101 1111102 2311202", "2111101 2212101 2312202 1111102"),  # across stages
        ("1111101 1211201 1121200", "1111101 1211201 1221200"),  # which of two paths computes the key of both
        ("5111101 5211201 5311201 5221100", "5111101 5211201 5311201 5321100"),  # with which of two takers
    ],
)
def test_paths_of_one_class_commute_with_all_that_they_share(one: str, other: str) -> None:
    assert same(BackboneGenome.parse(one), BackboneGenome.parse(other))


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(2, 12))
def test_unshared_paths_commute(seed: int, depth: int) -> None:
    rng = Random(seed)
    livs = [rng.choice((1, 8, 24)) for _ in range(depth)]
    stage = [
        replace(Segment(liv, path_group=1), featurizer_group=livs[:i].count(liv) + 1) for i, liv in enumerate(livs)
    ]
    genome = BackboneGenome(tuple(replace(segment, feature_group=segment.featurizer_group) for segment in stage))
    assert same(BackboneGenome(tuple(rng.sample(genome.segments, depth))), genome)


@settings(max_examples=60, deadline=None)
@given(seeds, depths)
def test_integers_without_effect_change_nothing(seed: int, depth: int) -> None:
    rng = Random(seed)
    genome = few_classes(rng, depth)
    lead = {stage[0]: len(stage) for stage in stages_of(genome)}
    seen: set[tuple[str, int, int]] = set()
    segments = []
    for index, segment in enumerate(genome):
        changes: dict[str, int] = {}
        if not segment.is_identity:
            if index not in lead:
                changes["residual_group"] = rng.randint(0, depth)
            if lead.get(index, 1) == 1:  # a member that does not lead, or a stage of one
                changes["routing"] = rng.randint(1, 3)
            if ("featurizer", segment.liv, segment.featurizer_group) not in seen:
                changes["featurizer_strategy"] = rng.randint(1, 2)
            if ("features", segment.liv, segment.feature_group) not in seen:
                changes["feature_strategy"] = rng.randint(1, len(POOL[segment.liv].strategies))
            seen |= {
                ("featurizer", segment.liv, segment.featurizer_group),
                ("features", segment.liv, segment.feature_group),
            }
        segments.append(replace(segment, **changes))
    assert same(BackboneGenome(tuple(segments)), genome)


def test_the_path_group_of_a_lone_liv_and_a_residual_group_of_one_stage_change_nothing() -> None:
    plain = BackboneGenome.parse("11111 91111 12121")
    for text in ("1111101 9111102 1212103", "1111110 9111120 1212130", "1111101 9111100 1212101"):
        assert same(BackboneGenome.parse(text), plain)
    assert str(BackboneGenome.parse("11111321 91111012 12121203").canonical(POOL)) == str(plain)


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ("11111 91111", "91111 11111", "order of stages"),
        ("11111 91111", "1111101 9111101", "parallel or not"),
        ("1111101 9111101 51111", "1111101 9111101 5111101", "how many are parallel"),
        ("1111101 9111101", "11111012 91111012", "routing by a mixer"),
        ("11111012 91111012", "11111013 91111012", "routing by a router"),
        ("11111 91111 51111", "111111 911110 511111", "a residual link"),
        ("111111 911110 511111", "111110 911111 511111", "from where it comes"),
        ("111111 911111 511111 711111", "111111 911112 511111 711112", "two groups"),
        ("11111 91111 01111", "11111 91111 51111", "an identity"),
        ("1111101 1211101 1311101", "1111101 1211101 1221101", "sharing between paths"),
        ("1111101 1211101 1121101", "1111101 1211101 1111201", "the weights of a key, or the key"),
        ("1111101 1212101 1121100 1221100", "1111101 1212101 1121100 1121100", "with one of them, or both"),
        ("5111101 5211201 5121200", "5111101 5211201 5221200", "which of two paths makes B from its v"),
    ],
)
def test_another_network_has_another_form(one: str, other: str, difference: str) -> None:
    first, second = BackboneGenome.parse(one), BackboneGenome.parse(other)
    assert not same(first, second), difference
    assert first.digest(POOL) != second.digest(POOL), difference


@pytest.mark.parametrize(
    ("featurizers", "features"),
    [
        (lambda i: (1, 1), lambda i: (1, 1)),  # nothing is shared
        (lambda i: (1, 2), lambda i: (1, 1)),  # all weights
        (lambda i: (1, 1), lambda i: (1, 4)),  # keys and values of the first
        (lambda i: (i // 2 + 1, 2), lambda i: (i + 1, 1)),  # weights in pairs
        (lambda i: (i // 8 + 1, 2), lambda i: (i // 3 + 1, 2)),  # weights of eight, keys of three
    ],
)
def test_a_stage_of_many_paths_of_one_class_has_one_form(featurizers: Sharing, features: Sharing) -> None:
    genome = BackboneGenome(tuple(Segment(1, *featurizers(i), *features(i), path_group=1) for i in range(24)))
    canonical = genome.canonical(POOL)
    for seed in range(3):
        shuffled = Random(seed).sample(range(24), 24)
        order = sorted(shuffled, key=lambda index: index > 0 and features(index)[0] == features(index - 1)[0])
        assert BackboneGenome(tuple(genome.segments[index] for index in order)).canonical(POOL) == canonical
