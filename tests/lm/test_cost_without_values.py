"""Costs are counted on modules whose weights are never drawn."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from star.backbone import Backbone
from star.genome import OptionPool, random_genome
from star.liv import LIV
from star.lm import analyse
from star.lm.cost import lone_liv
from star.lm.flops import forward_flops


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 30), depth=st.integers(1, 8), length=st.sampled_from((1, 5, 64, 300)))
def test_lone_livs_add_up_to_the_backbone(seed: int, depth: int, length: int) -> None:
    pool = OptionPool.full()
    genome = random_genome(pool, depth, Random(seed))
    backbone = Backbone(genome, pool, width=64, length=length)
    cost = analyse(genome, pool, width=64, length=length, element_bytes=1)
    assert cost.parameters == sum(parameter.numel() for parameter in backbone.parameters()) + 64, "and the final norm"
    held = [slot for _, unit in backbone.slots(length).units() for slot in unit]
    assert cost.cache_bytes == sum(slot.elements for slot in held)
    seen: set[int] = set()
    for row, liv in zip(cost.rows, backbone.livs, strict=True):
        assert isinstance(liv, LIV)
        assert row.name == liv.row.name
        first = next(number for number, stage in enumerate(backbone.stages) if row.index in stage.livs)
        modules: list[nn.Module] = [liv]
        if backbone.stages[first].livs[0] == row.index:
            modules += [
                backbone.norms[first],
                *([backbone.routers[str(first)]] if str(first) in backbone.routers else []),
            ]
        own = {id(one): one.numel() for module in modules for one in module.parameters() if id(one) not in seen}
        seen |= own.keys()
        assert row.parameters == sum(own.values())


def test_counting_draws_no_weights_and_counts_what_a_real_model_has(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = OptionPool.full()
    genomes = [random_genome(pool, 6, Random(seed)) for seed in range(6)]
    real = [
        sum(parameter.numel() for parameter in Backbone(genome, pool, width=64, length=128).parameters())
        for genome in genomes
    ]

    def drawn(*_: object, **__: object) -> None:
        raise AssertionError("a weight was drawn")

    lone_liv.cache_clear()
    monkeypatch.setattr(torch.Tensor, "normal_", drawn)
    assert [analyse(genome, pool, width=64, length=128).parameters for genome in genomes] == [
        count + 64 for count in real
    ], "and the final norm"
    assert all(forward_flops(genome, pool, width=64, length=128) > 0 for genome in genomes)
    with pytest.raises(AssertionError, match="drawn"):
        nn.init.normal_(torch.empty(3))
