"""Genomes beyond five integers: variation, validity and text with extensions, stages, stacking."""

from __future__ import annotations

from dataclasses import astuple, replace
from itertools import combinations, pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star.errors import StarError
from star.genome import (
    IDENTITY,
    BackboneGenome,
    Extension,
    OptionPool,
    Routing,
    Segment,
    Stage,
    crossover,
    initial_population,
    mutate,
    problems,
    random_genome,
    repair,
    stack,
    stages,
    wiring,
)

FULL = OptionPool.full()
POOL = FULL.with_extensions("residual", "paths", "routing", "depth")
SUBSETS = [
    names
    for size in range(5)
    for names in combinations(("residual", "paths", "routing", "depth"), size)
    if "routing" not in names or "paths" in names
]
seeds = st.integers(0, 2**32)
depths = st.integers(1, 24)
subsets = st.sampled_from(SUBSETS)


def check(genome: BackboneGenome, pool: OptionPool, depth: int) -> None:
    """Valid, of this depth, and without a trace of what the pool does not have."""
    assert problems(genome, pool) == []
    assert genome.depth == depth
    assert genome.arity <= pool.arity
    for segment in genome:
        assert segment.residual_group == 0 or Extension.RESIDUAL in pool.extensions
        assert segment.path_group == 0 or Extension.PATHS in pool.extensions
        assert segment.routing == 1 or Extension.ROUTING in pool.extensions
        assert segment.liv != IDENTITY or Extension.DEPTH in pool.extensions


@settings(max_examples=200, deadline=None)
@given(seeds, depths, subsets)
def test_random_genomes_mutants_and_children_are_valid(seed: int, depth: int, names: tuple[str, ...]) -> None:
    pool, rng = FULL.with_extensions(*names), Random(seed)
    first, second = random_genome(pool, depth, rng), random_genome(pool, depth, rng)
    points = rng.randint(1, 4)
    for genome in (first, second, mutate(first, pool, rng, 0.3), *crossover(first, second, pool, rng, points)):
        check(genome, pool, depth)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), min_size=8, max_size=8), min_size=1, max_size=12), seeds, subsets)
def test_repair_makes_any_integers_valid_and_is_idempotent(
    values: list[list[int]], seed: int, names: tuple[str, ...]
) -> None:
    pool = FULL.with_extensions(*names)
    genome = BackboneGenome(tuple(Segment(*row) for row in values))
    repaired = repair(genome, pool, Random(seed))
    check(repaired, pool, genome.depth)
    assert repair(repaired, pool, Random(seed + 1)) == repaired


@settings(max_examples=100, deadline=None)
@given(seeds, depths, subsets)
def test_genomes_of_a_smaller_pool_are_repaired_and_varied_in_a_larger_one(
    seed: int, depth: int, names: tuple[str, ...]
) -> None:
    pool, rng = OptionPool.paper().with_extensions(*names), Random(seed)
    larger, smaller = random_genome(POOL, depth, rng), random_genome(pool, depth, rng)
    check(mutate(larger, pool, rng, 0.0), pool, depth)
    for child in crossover(larger, smaller, pool, rng, 2):
        check(child, pool, depth)


def test_repair_removes_groups_that_do_not_exist_and_draws_a_routing() -> None:
    genome = BackboneGenome.parse("11111339 1.1.1.1.1.2.2.2")
    drawn = {repair(genome, POOL, Random(seed)) for seed in range(20)}
    assert {repaired.segments[0].routing for repaired in drawn} == {1, 2, 3}
    for repaired in drawn:
        assert (repaired.segments[0].residual_group, repaired.segments[0].path_group) == (0, 0)
        assert repaired.segments[1] == genome.segments[1]


def test_a_backbone_of_identities_gets_a_liv() -> None:
    nothing = BackboneGenome((Segment(IDENTITY),) * 3)
    (found,) = problems(nothing, POOL)
    assert "all of its LIVs are identities" in found
    for seed in range(20):
        repaired = repair(nothing, POOL, Random(seed))
        check(repaired, POOL, 3)
        assert sum(not segment.is_identity for segment in repaired) == 1
    with pytest.raises(StarError, match="only identities"):
        nothing.without_identities()
    assert all(any(s.liv for s in random_genome(POOL, 1, Random(seed))) for seed in range(200))


@pytest.mark.parametrize(("field", "values"), [("residual_group", 25), ("path_group", 3), ("routing", 3)])
def test_mutation_reaches_every_value_of_every_integer(field: str, values: int) -> None:
    genome = random_genome(POOL, 24, Random(0))
    rng = Random(1)
    mutants = [mutate(genome, POOL, rng, 0.5) for _ in range(60)]
    assert len({getattr(segment, field) for mutant in mutants for segment in mutant}) == values
    assert any(segment.is_identity for mutant in mutants for segment in mutant)


def test_without_extensions_the_random_stream_is_that_of_five_integers() -> None:
    genome = random_genome(OptionPool.paper(), 8, Random(0))
    assert str(genome) == "13.2.2.1.2 14.1.1.1.5 21111 91213 17.1.2.1.3 16.1.2.1.3 13.1.1.1.4 10.1.2.1.2"
    assert (
        str(mutate(genome, OptionPool.paper(), Random(1), 0.3))
        == "31112 17.1.2.2.2 21111 91213 17.1.2.1.3 17.1.2.1.3 14.1.2.1.4 10.1.2.1.2"
    )
    assert str(initial_population(OptionPool.paper(), 4, 12, Random(2))[-1]) == "11114 12.1.1.1.1 91212 51213"


@settings(max_examples=200, deadline=None)
@given(seeds, depths, subsets)
def test_text_and_integers_round_trip_at_any_arity(seed: int, depth: int, names: tuple[str, ...]) -> None:
    genome = random_genome(FULL.with_extensions(*names), depth, Random(seed))
    assert BackboneGenome.parse(str(genome)) == genome
    assert BackboneGenome.parse(str(genome).replace(" ", "-")) == genome
    assert BackboneGenome.from_integers(genome.integers, genome.arity) == genome
    assert len(genome.integers) == depth * genome.arity
    for arity in range(genome.arity, 9):
        assert BackboneGenome.from_integers(genome.flat(arity), arity) == genome
        dotted = " ".join(".".join(map(str, astuple(segment)[:arity])) for segment in genome)
        assert BackboneGenome.parse(dotted) == genome


@pytest.mark.parametrize(
    ("text", "segment"),
    [
        ("12345", Segment(1, 2, 3, 4, 5)),
        ("123456", Segment(1, 2, 3, 4, 5, 6, 0, 1)),
        ("1234567", Segment(1, 2, 3, 4, 5, 6, 7, 1)),
        ("12345678", Segment(1, 2, 3, 4, 5, 6, 7, 8)),
        ("30.1.1.1.1.12", Segment(30, 1, 1, 1, 1, 12, 0, 1)),
    ],
)
def test_integers_left_out_are_the_ones_without_effect(text: str, segment: Segment) -> None:
    genome = BackboneGenome.parse(f"{text} 91111")
    assert genome.segments == (segment, Segment(9))
    assert genome.segments[0] == segment
    assert len({len(word) for word in str(BackboneGenome.parse("12345 123456")).split()}) == 1


@pytest.mark.parametrize("arity", [-1, 0, 4, 9])
def test_segments_have_five_to_eight_integers(arity: int) -> None:
    with pytest.raises(StarError, match="make a segment"):
        BackboneGenome.from_integers([1] * 36, arity)
    with pytest.raises(StarError, match="up to 8"):
        BackboneGenome.parse("1" * max(arity, 1))


@pytest.mark.parametrize(
    ("text", "extensions", "reason"),
    [
        ("111111", ("paths",), "residual group (integer 6) is 1, but pool 'extended' does not have the extension"),
        ("1111101", ("residual",), "path group (integer 7) is 1, but pool"),
        ("11111002", ("paths",), "routing (integer 8) is 2, but pool"),
        ("111112", ("residual",), "residual group (integer 6) is 2; allowed: 0 to 1"),
        ("1111102", ("paths",), "path group (integer 7) is 2; allowed: 0 to 1"),
        ("11111000", ("paths", "routing"), "routing (integer 8) is 0; allowed: 1 to 3"),
        ("11111004", ("paths", "routing"), "routing (integer 8) is 4; allowed: 1 to 3"),
        ("01111 11111", (), "class 0 is the identity; extend the pool by 'depth'"),
        ("32.1.1.1.1", ("depth",), "class 32 is not in pool"),
    ],
)
def test_every_invalid_integer_is_named(text: str, extensions: tuple[str, ...], reason: str) -> None:
    (found,) = problems(BackboneGenome.parse(text), FULL.with_extensions(*extensions))
    assert reason in found


@pytest.mark.parametrize(
    ("names", "reason"),
    [(("routing",), "extend by paths,routing"), (("pathes",), "'pathes' names no extension; there are: residual,")],
)
def test_unknown_extensions_and_routing_without_paths_are_refused(names: tuple[str, ...], reason: str) -> None:
    with pytest.raises(StarError, match=reason):
        FULL.with_extensions(*names)


@settings(max_examples=200, deadline=None)
@given(seeds, depths)
def test_stages_partition_the_livs_in_order_and_sources_come_before(seed: int, depth: int) -> None:
    genome = random_genome(POOL, depth, Random(seed))
    found = stages(genome)
    livs = [index for stage in found for index in stage.livs]
    assert livs == [index for index, segment in enumerate(genome) if not segment.is_identity]
    for number, stage in enumerate(found):
        members = [genome.segments[index] for index in stage.livs]
        assert len({segment.path_group for segment in members}) == 1
        assert len(members) == 1 or members[0].path_group
        assert stage.routing == (members[0].routing if len(members) > 1 else Routing.SUM)
        if stage.source is not None:
            assert 0 <= stage.source < number
            source = found[stage.source]
            assert source.source is None, "the source of a group is its first stage"
            assert genome.segments[source.livs[0]].residual_group == members[0].residual_group != 0
    groups = [genome.segments[stage.livs[0]].residual_group for stage in found]
    for number, group in enumerate(groups):
        assert (found[number].source is not None) == (group != 0 and group in groups[:number])
    for one, other in pairwise(found):
        first, second = genome.segments[one.livs[-1]], genome.segments[other.livs[0]]
        assert first.path_group != second.path_group or first.path_group == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("11111 91111", (Stage((0,)), Stage((1,)))),
        ("1111101 9111101 9211102", (Stage((0, 1)), Stage((2,)))),
        ("1111101 00000 9111101", (Stage((0, 2)),)),  # an identity between two paths is no LIV between them
        ("1111101 91111 1211101", (Stage((0,)), Stage((1,)), Stage((2,)))),  # one group, but not next to each other
        (
            "1111111 9111121 9211110",
            (Stage((0, 1)), Stage((2,), 0)),
        ),  # the residual group of a stage is its first LIV's
        ("111111 911110 921111 931111", (Stage((0,)), Stage((1,)), Stage((2,), 0), Stage((3,), 0))),
        ("11111012 91111013", (Stage((0, 1), None, Routing.MIXER),)),
        ("11111002 91111003", (Stage((0,)), Stage((1,)))),  # one path needs no routing
        ("111111 00000 00000 911112 911111", (Stage((0,)), Stage((3,)), Stage((4,), 0))),  # sources count stages
    ],
)
def test_stages_of_printed_genomes(text: str, expected: tuple[Stage, ...]) -> None:
    assert stages(BackboneGenome.parse(text)) == expected


@settings(max_examples=100, deadline=None)
@given(seeds, st.integers(1, 10), st.integers(1, 4))
def test_a_stack_is_copies_of_its_motif_that_nothing_connects(seed: int, depth: int, copies: int) -> None:
    rng = Random(seed)
    pool = OptionPool("few", tuple(FULL[liv] for liv in rng.sample(FULL.ids, rng.randint(1, 4))), POOL.extensions)
    motif = random_genome(pool, depth, rng)
    stacked = stack(motif, copies)
    check(stacked, pool, copies * depth)

    def copy(index: int) -> int:
        return index // depth

    wires, composed = wiring(stacked, pool), stages(stacked)
    for index, (taken, owners) in enumerate(zip(wires.taken, wires.owners, strict=True)):
        assert {copy(other) for other in (*taken.values(), *owners.values())} <= {copy(index)}
    for stage in composed:
        assert len({copy(index) for index in stage.livs}) == 1
        assert stage.source is None or copy(composed[stage.source].livs[0]) == copy(stage.livs[0])
    for start in range(0, stacked.depth, depth):
        alone = BackboneGenome(stacked.segments[start : start + depth])
        assert numbered_anew(alone).canonical(pool) == motif.canonical(pool)


def numbered_anew(copy: BackboneGenome) -> BackboneGenome:
    """A copy out of a stack with group numbers that are valid for a motif alone: those of each class from 1 on."""
    segments = list(copy)
    for field in ("featurizer_group", "feature_group", "residual_group", "path_group"):
        per_class = field.startswith("featur")
        numbers: dict[tuple[int, int], int] = {}
        for index, segment in enumerate(segments):
            value = getattr(segment, field)
            if segment.is_identity or not value:
                continue
            key = (segment.liv if per_class else 0, value)
            numbers.setdefault(key, 1 + sum(liv == key[0] for liv, _ in numbers))
            segments[index] = replace(segments[index], **{field: numbers[key]})
    return BackboneGenome(tuple(segments))


def test_a_stack_has_at_least_one_copy() -> None:
    with pytest.raises(StarError, match="0 copies"):
        stack(BackboneGenome.parse("11111"), 0)
