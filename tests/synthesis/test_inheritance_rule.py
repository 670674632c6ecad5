"""Which stages a child inherits, from whom: held against the modules that genomes build, and against brute force."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from star.backbone import Backbone
from star.genome import BackboneGenome, OptionPool, Stage, crossover, mutate, random_genome
from star.synthesis import Candidate, Status
from star.synthesis.inheritance import heritage, inherited, inherited_share, inherited_tokens, kept_names

FULL = OptionPool.full()
POOL = FULL.with_extensions("residual", "paths", "routing", "depth")
PAPER = OptionPool.paper()
seeds = st.integers(0, 2**32)


def family(rng: Random) -> tuple[BackboneGenome, list[BackboneGenome], OptionPool]:
    """A child and its parents, canonical, over so few classes that much is shared and much is equal."""
    pool = OptionPool("few", tuple(FULL[liv] for liv in rng.sample(FULL.ids, rng.randint(1, 3))), POOL.extensions)
    first = random_genome(pool, rng.randint(1, 8), rng)
    second = mutate(first, pool, rng, 0.2) if rng.random() < 0.7 else random_genome(pool, first.depth, rng)
    child = mutate(rng.choice(crossover(first, second, pool, rng, 1)), pool, rng, rng.choice([0.0, 0.05, 0.2]))
    return child.canonical(pool), [first.canonical(pool), second.canonical(pool)], pool


def modules_of(backbone: Backbone, stage: Stage) -> Any:
    """How a stage of a real backbone is made and connected: its modules in words, and which LIV each comes from."""

    def owner(module: torch.nn.Module, branch: int, name: str) -> int:
        groups = [
            liv.operators[branch].featurizer.groups if branch < len(liv.operators) else {} for liv in backbone.livs
        ]
        return next(index for index, own in enumerate(groups) if name in own and own[name] is module)

    livs = [backbone.livs[index] for index in stage.livs]
    return (
        [repr(liv) for liv in livs],
        [
            (
                replace(liv.row, id=1, name="", operator=replace(liv.row.operator, featurizer=1), strategies=((),)),
                liv.row.reach,
            )
            for liv in livs
        ],
        [dict(operator.sharing.taken) for liv in livs for operator in liv.operators],
        [
            {name: owner(module, branch, name) for name, module in operator.featurizer.groups.items()}
            for liv in livs
            for branch, operator in enumerate(liv.operators)
        ],
        None if stage.source is None else backbone.stages[stage.source].livs,
        stage.routing,
    )


def built(genome: BackboneGenome, pool: OptionPool) -> Backbone:
    with torch.device("meta"):
        return Backbone(genome, pool, width=16, length=16)


def needed(backbone: Backbone) -> list[set[int]]:
    """For each stage the stages whose features or weights it uses, as the modules have it."""
    stage_of = {index: number for number, stage in enumerate(backbone.stages) for index in stage.livs}
    found = []
    for number, stage in enumerate(backbone.stages):
        _, _, taken, owners, *_ = modules_of(backbone, stage)
        found.append({stage_of[index] for row in [*taken, *owners] for index in row.values()} - {number})
    return found


def largest_gift(child: Backbone, parent: Backbone, group: set[int]) -> set[int]:
    """The most stages of a group that a parent can give: those alike, less all whose sources are not among them."""
    needs, by_livs = needed(child), {stage.livs: stage for stage in parent.stages}
    gift = {
        number
        for number in group
        if (other := by_livs.get(child.stages[number].livs)) is not None
        and modules_of(parent, other) == modules_of(child, child.stages[number])
    }
    while lost := {number for number in gift if not needs[number] <= gift}:
        gift -= lost
    return gift


@settings(max_examples=150, deadline=None)
@given(seeds)
def test_stages_come_from_the_parent_that_can_give_most_of_a_group_that_shares(seed: int) -> None:
    child, parents, pool = family(Random(seed))
    answer = inherited(child, parents, pool)
    own, others = built(child, pool), [built(parent, pool) for parent in parents]
    assert len(answer) == len(own.stages)
    needs = needed(own)
    left = set(range(len(answer)))
    while left:
        group = {min(left)}
        while more := {n for n in left - group if needs[n] & group or any(n in needs[m] for m in group)}:
            group |= more
        left -= group
        gifts = [largest_gift(own, parent, group) for parent in others]
        livs = [sum(len(own.stages[number].livs) for number in gift) for gift in gifts]
        best = livs.index(max(livs))
        expected = {number: best if number in gifts[best] else None for number in group}
        assert {number: answer[number] for number in group} == expected


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_a_child_like_its_parent_inherits_everything_and_an_orphan_nothing(seed: int) -> None:
    child, (_, other), pool = family(Random(seed))
    assert set(inherited(child, [child, other], pool)) == {0}
    assert set(inherited(child, [], pool)) == {None}
    second = inherited(child, [other, child], pool)
    assert None not in second
    share = inherited_share(child, second, [1] * child.depth)
    assert share == 1


def test_numbers_of_classes_mean_nothing_and_what_they_stand_for_does() -> None:
    row = PAPER[1]
    pool = PAPER.extended(
        replace(row, id=40, name="same"), replace(FULL[19], id=41), replace(FULL[19], id=42, window=7)
    )
    parent = BackboneGenome.parse("1.1.1.1.1 41.1.1.1.1 9.1.1.1.1")
    child = BackboneGenome.parse("40.1.1.1.1 42.1.1.1.1 9.1.1.1.1")
    assert inherited(child, [parent], pool) == (0, None, 0), "another window is another operator"


@pytest.mark.parametrize(
    ("child", "parents", "expected"),
    [
        ("11111 91111 51111", ["11111 91111 61111", "21111 91111 51111"], (0, 0, 1)),
        ("11111 91111 51111", ["91111 11111 51111"], (None, None, 0)),
        # k of LIV 2 is that of LIV 0: unshared in the parent, it was trained for another k.
        ("11111 91111 12112", ["11111 91111 12121"], (0, 0, None)),
        # The sharers come from one parent, the first that has both; the source alone would do from the first.
        ("11111 91111 12112", ["11111 91111 21111", "11111 91111 12112"], (1, 0, 1)),
        # A source whose follower has changed keeps what it has learned.
        ("11111 91111 51111", ["11111 91111 12112"], (0, 0, None)),
        # Differences have another structure than their class.
        ("10.1.1.1.1 9.1.1.1.1", ["1.1.1.1.1 9.1.1.1.1"], (None, 0)),
    ],
)
def test_examples(child: str, parents: list[str], expected: tuple[int | None, ...]) -> None:
    genomes = [BackboneGenome.parse(text).canonical(PAPER) for text in parents]
    assert inherited(BackboneGenome.parse(child).canonical(PAPER), genomes, PAPER) == expected


def test_stages_are_inherited_whole_with_their_routing_and_residual() -> None:
    together = BackboneGenome.parse("11111011 91111011 51111").canonical(POOL)  # two paths, added
    assert inherited(together, [BackboneGenome.parse("11111 91111 51111")], POOL) == (None, 0), "one norm, not two"
    mixed = BackboneGenome.parse("11111012 91111012 51111").canonical(POOL)
    assert inherited(mixed, [together], POOL) == (None, 0)
    linked = BackboneGenome.parse("111111 911110 511111").canonical(POOL)  # LIV 2 also reads what LIV 0 gave
    assert inherited(linked, [BackboneGenome.parse("11111 91111 51111")], POOL) == (0, 0, None)


def candidate(name: str, genome: str, parents: str = "", *, tokens: int = 100, **more: Any) -> Candidate:
    return Candidate(name, genome, genome, name, 0, tuple(parents.split()), 2, tokens=tokens, **more)


def test_lineage_tokens_are_own_and_the_most_of_any_giver() -> None:
    long = candidate("1", "11111 91111 51111", status=Status.DONE, inherited_tokens=900)
    short = candidate("2", "21111 91111 61111", status=Status.DONE, inherited_tokens=50)
    failed = candidate("3", "11111 91111 51111", status=Status.FAILED, inherited_tokens=5000)
    assert (long.lineage_tokens, short.lineage_tokens) == (1000, 150)
    known = [long, short, failed]
    assert inherited_tokens(candidate("4", "21111 91111 61111", "2 1"), known, PAPER) == 150, "2 gives all of it"
    assert inherited_tokens(candidate("4", "21111 91111 51111", "2 1"), known, PAPER) == 1000
    assert inherited_tokens(candidate("4", "71111 71111 71111", "1 2"), known, PAPER) == 1000, "the embedding at least"
    assert inherited_tokens(candidate("4", "11111 91111 51111", "3 2"), known, PAPER) == 150, (
        "a failed one gives nothing"
    )
    assert inherited_tokens(candidate("4", "11111 91111 51111", "3"), known, PAPER) == 0
    assert inherited_tokens(candidate("4", "11111 91111 51111"), known, PAPER) == 0
    given_by = heritage(candidate("4", "11111 91111 51111", "3 2"), known, Path("run"))
    assert given_by is not None
    assert [parent.name for parent in given_by.parents] == ["2"]
    assert heritage(candidate("4", "11111 91111 51111", "3"), known, Path("run")) is None


def test_the_share_is_that_of_parameters() -> None:
    child = BackboneGenome.parse("11111 91111 51111")
    assert inherited_share(child, (0, None, 1), [10, 70, 20]) == pytest.approx(0.3)
    assert inherited_share(child, (None, None, None), [10, 70, 20]) == 0


def test_weights_are_kept_of_whoever_may_still_have_children() -> None:
    done = [replace(candidate(str(number), "11111"), status=Status.DONE) for number in range(1, 7)]
    assert kept_names(["2", "5"], 2, done) == {"2", "5"}
    later = replace(candidate("7", "11111", "1 3"), generation=3)
    assert kept_names(["2", "5"], 2, [*done, later]) == {"2", "5", "7", "1", "3"}, "it waits for its parents' weights"
    assert kept_names(["2", "5"], 2, [*done, replace(later, status=Status.DONE)]) == {"2", "5", "7"}
