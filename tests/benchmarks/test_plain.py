"""What throughput is compared with computes the same networks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from star.genome import BackboneGenome, OptionPool
from star.lm import LanguageModel

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from plain import FORMS, plain
from star.liv.kernels import KERNELS


@pytest.mark.parametrize("liv", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 16, 17, 19, 23, 24])
def test_plain_pytorch_trains_the_same_network(liv: int) -> None:
    genome = BackboneGenome.parse(f"{liv}.1.1.1.1 9.1.1.1.1 {liv}.1.1.1.1")
    model = LanguageModel.from_genome(genome, pool=OptionPool.full(), width=32, vocab_size=17, length=70, seed=0)
    tokens, targets = torch.randint(0, 17, (2, 3, 70), generator=torch.Generator().manual_seed(0)).unbind()
    parameters = list(model.parameters())

    def step() -> list[torch.Tensor]:
        loss = model.loss(tokens, targets)
        return [loss.detach(), *torch.autograd.grad(loss, parameters)]

    ours = step()
    with plain():
        theirs = step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_every_form_belongs_to_a_kernel() -> None:
    assert FORMS.keys() <= {kernel.name for kernel in KERNELS}
