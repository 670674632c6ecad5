"""Classes 18 to 31 and pools with extensions as data: their genomes, digests, refusals and random relatives."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from star.errors import StarError
from star.genome import (
    BackboneGenome,
    ChannelMixing,
    Extension,
    FeaturizerGenome,
    LivClass,
    OperatorGenome,
    OptionPool,
    StateSpace,
    TokenMixing,
)
from star.genome.extended import EXTENDED_CLASSES
from star.genome.meaning import refusals
from star.genome.paper import PAPER_CLASSES
from star.genome.sampling import random_class

FULL = OptionPool.full()
ALL = ("residual", "paths", "routing", "depth")


@pytest.mark.parametrize(
    ("liv", "name", "operator"),
    [
        (18, "LinAttn", "12113"),
        (19, "SWA", "12223"),
        (20, "S4-1", "10.3.1.1.1"),
        (21, "S4-2", "11.4.1.1.1"),
        (22, "S4-Monarch", "12.3.1.1.4"),
        (23, "Deformer-1", "13.5.2.1.1"),
        (24, "Deformer-2", "14.5.2.1.1"),
    ],
)
def test_the_classes_beyond_the_paper_and_their_differences(liv: int, name: str, operator: str) -> None:
    row, difference = FULL[liv], FULL[liv + 7]
    assert (row.name, str(row.operator), row.differential) == (name, operator, False)
    assert difference == replace(row, id=liv + 7, name=f"{name}-Diff", differential=True)
    assert difference.description != row.description


def test_the_full_pool_is_the_papers_with_fourteen_more() -> None:
    assert FULL.ids == tuple(range(1, 32))
    assert FULL.rows == PAPER_CLASSES + EXTENDED_CLASSES
    assert FULL.extensions == ()


@pytest.mark.parametrize("names", [(), ("residual",), ("paths", "routing"), ALL])
def test_pools_with_extensions_survive_plain_data(names: tuple[str, ...]) -> None:
    pool = FULL.with_extensions(*names)
    again = OptionPool.from_dict(pool.to_dict())
    assert again == pool
    assert again.extensions == tuple(Extension(name) for name in names)
    assert again.digest == pool.digest
    assert (pool.digest == FULL.digest) == (not names)


def test_extensions_have_one_order_and_stay_when_classes_are_added() -> None:
    assert FULL.with_extensions(*reversed(ALL), "depth") == FULL.with_extensions(*ALL)
    pool = OptionPool.paper().with_extensions("depth").extended(FULL[18])
    assert pool.extensions == (Extension.DEPTH,)
    assert (pool.choices, pool.arity) == ((0, *range(1, 19)), 5)
    arities = [FULL.with_extensions(*names).arity for names in (("residual",), ("paths",), ("paths", "routing"))]
    assert arities == [6, 7, 8]


def test_pools_saved_before_there_were_extensions_load() -> None:
    saved = OptionPool.paper().to_dict()
    del saved["extensions"]
    for row in saved["classes"]:
        del row["state_space"]
    assert OptionPool.from_dict(saved) == OptionPool.paper()


@pytest.mark.parametrize(
    ("liv", "change", "matters"),
    [
        (19, {"window": 32}, True),  # sliding window
        (23, {"window": 32}, True),  # bounded shifts of the operator
        (24, {"window": 32}, True),  # and of a group
        (18, {"window": 32}, False),
        (7, {"window": 32}, False),  # the short convolution of a group has a length of its own
        (20, {"window": 32}, False),
        (20, {"state_space": StateSpace.REAL}, True),
        (21, {"state_space": StateSpace.LIN}, True),
        (22, {"state_space": StateSpace.REAL}, True),
        (5, {"state_space": StateSpace.REAL}, False),  # its Δ, B and C come from the input
        (8, {"state_space": StateSpace.REAL}, False),  # its kernel is no state space
        (19, {"state_space": StateSpace.REAL}, False),
        (19, {"name": "another"}, False),
    ],
)
def test_digests_tell_apart_what_makes_another_network(liv: int, change: dict, matters: bool) -> None:
    other = FULL.extended(replace(FULL[liv], **change))
    here = BackboneGenome.parse(f"{liv}.1.1.1.1 9.1.1.1.1")
    assert (here.digest(FULL) != here.digest(other)) == matters
    assert (FULL.digest != other.digest) == matters
    elsewhere = BackboneGenome.parse("11111 91111")
    assert elsewhere.digest(FULL) == elsewhere.digest(other)
    assert elsewhere.digest(FULL) == elsewhere.digest(OptionPool.paper().with_extensions(*ALL))


def test_who_reads_its_own_v() -> None:
    assert [row.id for row in FULL.rows if row.reading_v] == [5, 6, 14, 15]
    assert FULL[5].reading_v == ("delta", "B", "C")


DENSE, KERNEL, SCALE = "1111211", "3.4.1.1.1.64.1", "2111111"
STATE = "3411111-3.4.1.1.1.16.1-3.4.1.1.1.16.1"


@pytest.mark.parametrize(
    ("operator", "featurizer", "reason"),
    [
        ("15111", f"{DENSE}-{DENSE}-{DENSE}", "decoding keeps a window of tokens: sparsity 2"),
        ("15311", f"{DENSE}-{DENSE}-{DENSE}", "resampling without a band"),
        ("15221", f"{DENSE}-{DENSE}-{DENSE}", "weights of an interpolation"),
        ("15241", f"{DENSE}-{DENSE}-{DENSE}", "put the nonlinearity on a feature group"),
        ("15211", f"{DENSE}-{DENSE}-2111211", "v, the content (up or v) as a learned constant"),
        ("15211", f"{DENSE}-{DENSE}-1111221", "g, s, v meet channel by channel"),
        ("15213", f"{DENSE}-1111111-{DENSE}", "group s, diagonal channel mixing of gate, up, Δ or s"),
        ("15211", f"{DENSE}-{DENSE}", "needs 3 feature groups (g, s, v)"),
        ("15211", f"{DENSE}-3411211-{DENSE}", "group s, an implicit group that is not the kernel K"),
        ("12123", f"1511211-{DENSE}-{DENSE}", "3 and 5 go with sparsity 2"),
        ("12123", f"1121211-{DENSE}-{DENSE}", "and 1 with sparsity 1"),
        ("12123", f"{DENSE}-3411211-{DENSE}", "Δ, B and C of a fixed state space, which have token mixing 4"),
        ("12123", f"1211211-{DENSE}-{DENSE}", "1 (none), 3 (short convolution) or 5"),
        ("13111", f"{DENSE}-3414111-{DENSE}", "a nonlinearity on what a fixed state space is made from"),
        ("13111", f"{DENSE}-3311121-{DENSE}", "only a K from a fixed state space has an expansion"),
        ("13111", f"{DENSE}-{KERNEL}-1111221", "an expanded group of a Toeplitz operator"),
        ("13111", f"{DENSE}-3.4.1.1.1.64.2-{SCALE}", "a repeated q, K, B or C"),
        ("13114", f"1112411-{KERNEL}-{SCALE}", "softmax on a feature group"),
        ("14111", f"{DENSE}-{DENSE}-3411111-3.4.1.1.1.16.1-1.1.1.1.2.16.1", "all or none of them"),
        ("14111", f"{DENSE}-{DENSE}-2111111-3.4.1.1.1.16.1-3.4.1.1.1.16.1", "all or none of them"),
        ("14111", f"{DENSE}-{DENSE}-3411121-3411121-3411121", "a channel has one step size"),
        ("14111", f"{DENSE}-{DENSE}-3411111-3411121-3411141", "B, C meet channel by channel"),
        ("14111", f"{DENSE}-{DENSE}-3414111-3411121-3411121", "no sum of decaying modes"),
        ("14111", f"3411211-{DENSE}-{STATE}", "group v, an implicit group that is not the kernel K"),
        ("14211", f"{DENSE}-{DENSE}-{STATE}", "cuts off the state"),
        ("11111", "1111411-1111421", "gate, up meet channel by channel"),
    ],
)
def test_every_refusal_gives_its_reason(operator: str, featurizer: str, reason: str) -> None:
    genomes = OperatorGenome.parse(operator), FeaturizerGenome.parse(featurizer)
    assert any(reason in found for found in refusals(*genomes)), refusals(*genomes)
    with pytest.raises(StarError, match="has no meaning"):
        LivClass(1, "refused", *genomes)


@pytest.mark.parametrize(
    ("operator", "featurizer"),
    [
        ("15211", f"1521211-{DENSE}-1521211"),
        ("12124", f"1521411-{DENSE}-1321211"),
        ("13114", f"1114411-{KERNEL}-{SCALE}"),
        ("14313", f"{DENSE}-{DENSE}-{STATE}"),
        ("11112", "1111421-1521421"),
    ],
)
def test_what_is_next_to_a_refusal_has_a_meaning(operator: str, featurizer: str) -> None:
    assert refusals(OperatorGenome.parse(operator), FeaturizerGenome.parse(featurizer)) == []


@pytest.mark.parametrize(
    ("operator", "featurizer", "group"),
    [
        ("13111", f"{DENSE}-3411171-{SCALE}", "expansion of K"),
        ("14111", f"{DENSE}-{DENSE}-3411111-3411131-3411131", "expansion of B, C"),
    ],
)
def test_modes_in_complex_pairs_have_an_even_number(operator: str, featurizer: str, group: str) -> None:
    genomes = OperatorGenome.parse(operator), FeaturizerGenome.parse(featurizer)
    with pytest.raises(StarError, match=group) as caught:
        LivClass(1, "odd", *genomes)
    assert "'s4d-real'" in str(caught.value)
    assert LivClass(1, "odd", *genomes, state_space=StateSpace.REAL).state_spaces


def test_a_state_space_is_named_by_its_value() -> None:
    data = FULL[20].to_dict()
    assert data["state_space"] == "s4d-lin"
    with pytest.raises(StarError, match="'hippo' names no state space; allowed: s4d-lin, s4d-real"):
        LivClass.from_dict(data | {"state_space": "hippo"})


def test_random_classes_are_of_every_kind() -> None:
    rows = [random_class(1, Random(seed)) for seed in range(400)]
    mixings = Counter(row.operator.token_mixing for row in rows)
    assert all(mixings[mixing] > 40 for mixing in TokenMixing)
    assert sum(row.state_spaces == ("K",) for row in rows) > 10
    assert sum(row.state_spaces == ("delta", "B", "C") for row in rows) > 10
    assert {row.state_space for row in rows if row.state_spaces} == set(StateSpace)
    assert any(row.operator.channel_mixing is ChannelMixing.MONARCH for row in rows)
    groups = [group for row in rows for group in row.featurizer if group.from_input]
    assert any(group.channel_mixing is ChannelMixing.MONARCH for group in groups)
    assert any(group.token_mixing is TokenMixing.RESAMPLING for group in groups)
    assert all(LivClass.from_dict(row.to_dict()) == row for row in rows)
