"""Mutations inside classes: valid, never without effect, one row for one class, and everything valid can be reached."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star.genome import (
    BackboneGenome,
    Extension,
    FeaturizerGenome,
    LivClass,
    OptionPool,
    StateSpace,
    TokenMixing,
    mutate,
    mutate_inside,
    problems,
    random_genome,
    wiring,
)
from star.genome.derivation import (
    FAMILIES,
    LONGEST_NAME,
    MOST_EXPANSION,
    MOST_REPEAT,
    OPERATOR,
    changed,
    derived,
    places,
)
from star.genome.extension import FIRST_DERIVED
from star.genome.meaning import settled
from star.genome.sampling import random_class

FULL = OptionPool.full()
POOL = FULL.with_extensions("operators")
seeds = st.integers(0, 2**32)


def anything(row: LivClass) -> bool:
    return True


def neighbours(row: LivClass) -> list[LivClass]:
    operator, featurizer = places(row)
    return [other for genome, place in (*operator, *featurizer) for other in changed(row, genome, place)]


def integers(row: LivClass, genome: str) -> tuple[int, ...]:
    text = str(row.operator if genome == OPERATOR else row.groups[genome])
    return tuple(map(int, text.split(".") if "." in text else text))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(FULL.rows), seeds, st.integers(0, 12))
def test_every_chain_leads_to_valid_classes(row: LivClass, seed: int, steps: int) -> None:
    rng = Random(seed)
    for _ in range(steps):
        following = derived(row, rng, anything)
        assert following is not None
        assert following.identity != row.identity
        assert len(following.name) <= LONGEST_NAME
        row = following
    assert LivClass.from_dict(row.to_dict()) == row  # which validates it again
    for name, group in row.groups.items():
        assert group.repeat <= MOST_REPEAT
        assert group.expansion <= MOST_EXPANSION or name in ("K", "B", "C")
    allowed = FAMILIES[row.operator.token_mixing].strategies
    assert set(row.strategies) <= set(allowed) or row in FULL.rows


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_the_integer_that_changes_has_another_value_and_others_follow_only_where_they_must(seed: int) -> None:
    row = random_class(7, Random(seed))
    for genome, place in (*places(row)[0], *places(row)[1]):
        for other in changed(row, genome, place):
            if genome == OPERATOR or genome in other.groups:
                assert integers(other, genome)[place] != integers(row, genome)[place]
            assert (other.differential, other.window) == (row.differential, row.window)


def test_neighbours_are_classes_of_the_pool_where_it_has_them() -> None:
    found = {other.identity for other in neighbours(FULL[1])}
    assert {FULL[18].identity, FULL[19].identity, FULL[4].identity} <= found
    assert FULL[1].identity not in found
    relu = next(other for other in neighbours(FULL[1]) if str(other.operator) == "12133")
    assert relu.strategies == FULL[1].strategies


def test_integers_without_effect_make_no_other_class() -> None:
    kernel = next(index for index, name in enumerate(FULL[7].group_names) if name == "K")
    groups = list(FULL[7].featurizer)
    groups[kernel] = replace(groups[kernel], token_mixing=TokenMixing.DIAGONAL, expansion=1)
    same = replace(FULL[7], featurizer=replace(FULL[7].featurizer, groups=tuple(groups)))
    assert same.identity == FULL[7].identity
    assert changed(FULL[7], "K", 1) == ()


def distance(one: LivClass, other: LivClass) -> float:
    """Integers that differ, sizes by how much."""
    if one.operator.token_mixing is not other.operator.token_mixing:
        return 100.0
    pairs = [(integers(one, genome), integers(other, genome)) for genome in (OPERATOR, *one.groups)]
    return sum(
        min(1.0, abs(a - b)) + abs(a - b) / 100
        for first, second in pairs
        for a, b in zip(first[1:], second[1:], strict=True)
    ) + sum(float(first[0] != second[0]) for first, second in pairs[1:])


@settings(max_examples=6, deadline=None)
@given(seeds, st.sampled_from([1, 5, 7, 9, 20, 21, 23]))
def test_chains_reach_any_valid_class(seed: int, start: int) -> None:
    first = FULL[start]
    target = random_class(1, Random(seed), expansions=(1, 2, 3, 8), repeats=(1, 2, 4))
    groups = tuple(settled(name, group) for name, group in target.groups.items())
    target = replace(target, window=first.window, featurizer=FeaturizerGenome(groups))
    wanted = {replace(target, state_space=space).identity for space in _spaces(target)}
    queue, seen, reached = [(distance(first, target), 0, first)], {first.identity}, False
    for _ in range(600):
        _, _, row = heapq.heappop(queue)
        if reached := row.identity in wanted:
            break
        for other in neighbours(row):
            if other.identity not in seen:
                seen.add(other.identity)
                heapq.heappush(queue, (distance(other, target), len(seen), other))
    assert reached, f"{target.operator} {target.featurizer} was not reached from {first.name}"


def _spaces(row: LivClass) -> list[StateSpace]:
    """How a state space starts is a field and no integer; an odd size leaves one way."""
    odd = any(row.groups[name].expansion % 2 for name in row.state_spaces if name != "delta")
    return [StateSpace.REAL] if odd else list(StateSpace)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 12), st.integers(1, 6))
def test_pools_grow_by_classes_that_they_lack_and_the_seed_decides(seed: int, depth: int, steps: int) -> None:
    results = []
    for _ in range(2):
        rng, pool = Random(seed), POOL
        genome = random_genome(POOL, depth, rng)
        for _ in range(steps):
            before = pool
            genome, pool = mutate_inside(genome, pool, rng, 0.5, base=POOL)
            assert pool.rows[: len(before.rows)] == before.rows
            assert problems(genome, pool) == []
            assert genome.depth == depth
        results.append((genome, pool))
    assert results[0] == results[1]
    genome, pool = results[0]
    assert len({row.identity for row in pool.rows}) == len(pool.rows)
    assert len({row.name for row in pool.rows}) == len(pool.rows)
    new = [row.id for row in pool.rows if row.id not in POOL]
    assert new == list(range(FIRST_DERIVED, FIRST_DERIVED + len(new)))
    assert OptionPool.from_dict(pool.to_dict()) == pool
    for row in pool.rows:
        if row.id >= FIRST_DERIVED:
            assert pool.adopted(replace(row, id=1, name="another")) == (pool, row)


def test_half_of_the_class_mutations_go_inside_and_the_others_draw_from_the_base() -> None:
    rng, pool = Random(0), POOL
    genome = random_genome(POOL, 24, rng)
    inside = total = 0
    for _ in range(60):
        mutant, grown = mutate_inside(genome, pool, rng, 1.0, base=POOL)
        # A mutation inside can lead to a class of the pool, too.
        inside += sum(segment.liv >= FIRST_DERIVED for segment in mutant)
        total += genome.depth
        assert all(segment.liv in grown for segment in mutant)
    assert 0.4 < inside / total < 0.5
    grown = pool.adopted(derived(FULL[1], Random(4), anything) or FULL[1])[0]
    drawn = Counter(
        segment.liv
        for seed in range(50)
        for segment in mutate_inside(genome, grown, Random(seed), 1.0, base=POOL)[0]
        if segment.liv >= FIRST_DERIVED
    )
    assert drawn[FIRST_DERIVED] < sum(drawn.values()) / 20, "derived classes are not drawn, but found anew"


def test_only_classes_that_fit_are_derived() -> None:
    genome, rng = random_genome(POOL, 12, Random(1)), Random(2)
    _, pool = mutate_inside(genome, POOL, rng, 1.0, base=POOL, fits=lambda row: row.memoryless)
    new = [row for row in pool.rows if row.id not in POOL]
    assert new
    assert all(row.memoryless for row in new)
    assert mutate_inside(genome, POOL, rng, 1.0, base=POOL, fits=lambda row: False)[1] is POOL


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 10))
def test_digests_do_not_depend_on_the_ids_of_derived_classes(seed: int, depth: int) -> None:
    rng = Random(seed)
    base = FULL.with_extensions("operators", "paths", "routing", "residual")
    genome, pool = mutate_inside(random_genome(base, depth, rng), base, rng, 0.7, base=base)
    new = [row for row in pool.rows if row.id >= FIRST_DERIVED]
    shuffled = rng.sample(range(FIRST_DERIVED, FIRST_DERIVED + 3 * len(new)), len(new))
    numbers = {row.id: number for row, number in zip(new, shuffled, strict=True)}
    other = BackboneGenome(tuple(replace(s, liv=numbers.get(s.liv, s.liv)) for s in genome))
    rows = tuple(replace(row, id=numbers[row.id], name=f"row {row.id}") for row in new)
    elsewhere = OptionPool("elsewhere", (*base.rows, *rows), base.extensions)
    assert other.digest(elsewhere) == genome.digest(pool)
    assert genome.canonical(pool).digest(pool) == genome.digest(pool)
    assert wiring(genome.canonical(pool), pool) is not None


def test_digests_tell_derived_classes_apart() -> None:
    _, pool = mutate_inside(random_genome(POOL, 12, Random(3)), POOL, Random(3), 1.0, base=POOL)
    new = [row.id for row in pool.rows if row.id >= FIRST_DERIVED]
    digests = {BackboneGenome.parse(f"{liv}.1.1.1.1 9.1.1.1.1").digest(pool) for liv in (*new, *FULL.ids)}
    assert len(digests) == len(new) + len(FULL.ids)


def test_a_pool_without_the_extension_mutates_as_ever() -> None:
    genome = random_genome(FULL, 12, Random(5))
    assert Extension.OPERATORS not in FULL.extensions
    assert mutate(genome, FULL, Random(6), 0.3) == mutate(genome, POOL, Random(6), 0.3)


@pytest.mark.parametrize("liv", FULL.ids)
def test_names_are_those_of_the_pool_for_its_own_classes(liv: int) -> None:
    from star.genome.derivation import described

    assert described(FULL[liv]) == FULL[liv].name
