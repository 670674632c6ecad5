"""Counted operations: by hand, against torch's counter where that counts the same, and what sharing saves."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from star.backbone import Backbone
from star.genome import BackboneGenome, OptionPool, Sparsity, preset
from star.lm import analyse, forward_flops
from star.lm.flops import visible_pairs

POOL = OptionPool.full()


def flops(text: str, length: int = 32) -> int:
    return forward_flops(BackboneGenome.parse(text), POOL, width=64, length=length)


def test_a_transformer_costs_two_for_each_weight_and_the_causal_half_of_attention() -> None:
    genome, pool = preset("transformer++", 24)
    weights = analyse(genome, pool, width=768, length=4096).parameters - 25 * 768  # the norms are not counted
    attention = 12 * 4 * 768 * (4096 * 4097 // 2)
    gates = 12 * 2048 * 4096
    assert forward_flops(genome, pool, width=768, length=4096) == 2 * weights * 4096 + attention + gates


@pytest.mark.parametrize("text", ["91111", "91111 92111"])
def test_channel_maps_cost_what_torch_counts(text: str) -> None:
    backbone = Backbone(BackboneGenome.parse(text), POOL, width=64, length=32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(torch.zeros(1, 32, 64))
    gates = 32 * sum(backbone.livs[0].operators[0].mixer.channels for _ in backbone.livs)  # type: ignore[union-attr, operator, index]
    assert flops(text) == counter.get_total_flops() + gates


@pytest.mark.parametrize("sparsity", list(Sparsity))
@pytest.mark.parametrize("length", [1, 5, 8, 23])
def test_visible_pairs_are_counted_one_by_one(sparsity: Sparsity, length: int) -> None:
    def seen(i: int, j: int) -> bool:
        banded = sparsity is not Sparsity.BANDED or i - j < 5
        return j <= i and banded and (sparsity is not Sparsity.BLOCK_DIAGONAL or i // 5 == j // 5)

    assert visible_pairs(length, sparsity, 5) == sum(seen(i, j) for i in range(length) for j in range(length))


def test_features_that_are_taken_are_not_computed_and_shared_weights_are() -> None:
    apart = flops("11111 12121")
    assert flops("11111 11112") < apart, "the second takes the keys of the first"
    assert flops("11111 11221") == apart, "weights that are shared are applied twice"


@pytest.mark.parametrize("liv", POOL.ids)
def test_every_class_has_a_count_that_grows_with_the_length(liv: int) -> None:
    short, long = flops(f"{liv}.1.1.1.1", 256), flops(f"{liv}.1.1.1.1", 512)
    assert 0 < short < long
    attends = POOL[liv].name.startswith("SA")
    assert (long > 2.2 * short) == attends, "only attention over everything grows with the square of the length"
