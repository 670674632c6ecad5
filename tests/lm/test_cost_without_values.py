"""Costs are counted on modules whose weights are never drawn."""

from __future__ import annotations

from random import Random

import pytest
import torch
from torch import nn

from star.genome import OptionPool, random_genome
from star.lm import analyse
from star.lm.flops import forward_flops


def test_counting_draws_no_weights_and_counts_what_a_real_model_has(monkeypatch: pytest.MonkeyPatch) -> None:
    from star.backbone import Backbone

    pool = OptionPool.full()
    genomes = [random_genome(pool, 6, Random(seed)) for seed in range(6)]
    real = [
        sum(parameter.numel() for parameter in Backbone(genome, pool, width=64, length=128).parameters())
        for genome in genomes
    ]

    def drawn(*_: object, **__: object) -> None:
        raise AssertionError("a weight was drawn")

    monkeypatch.setattr(torch.Tensor, "normal_", drawn)
    assert [analyse(genome, pool, width=64, length=128).parameters for genome in genomes] == [
        count + 64 for count in real
    ], "and the final norm"
    assert all(forward_flops(genome, pool, width=64, length=128) > 0 for genome in genomes)
    with pytest.raises(AssertionError, match="drawn"):
        nn.init.normal_(torch.empty(3))
