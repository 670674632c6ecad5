"""The portable liquid scan over several segments: each gradient alone, and what it keeps."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from star.liv.kernels import forced
from star.liv.kernels.liquid_scan import liquid_scan
from star.liv.kernels.scan import segment_length

CHANNELS, MODES = 64, 16


def inputs(segments: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    length = segments * segment_length(CHANNELS * MODES)
    transition, drive = (0.4 * torch.rand(CHANNELS, MODES, generator=generator) for _ in range(2))
    u = torch.randn(1, length, CHANNELS, generator=generator).tanh()
    readout = torch.randn(CHANNELS, MODES, generator=generator)
    return [u, transition, drive, readout, torch.zeros(1, CHANNELS, MODES)]


@pytest.mark.parametrize("wanted", [each for each in product([False, True], repeat=5) if any(each)])
def test_each_gradient_alone_and_with_others(wanted: tuple[bool, ...]) -> None:
    given = [tensor.requires_grad_(needed) for tensor, needed in zip(inputs(3), wanted, strict=True)]
    leaves, found = [tensor for tensor in given if tensor.requires_grad], []
    for implementation in ("portable", "reference"):
        with forced(implementation):
            y, _ = liquid_scan(*given)
        found.append(torch.autograd.grad(y.square().sum(), leaves))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_states_within_segments_are_not_kept() -> None:
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    given = [tensor.requires_grad_() for tensor in inputs(8)]
    with forced("portable"), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y, last = liquid_scan(*given)
    every_state = y.numel() * MODES * y.element_size()
    assert last.untyped_storage().nbytes() == last.numel() * last.element_size()
    assert sum(kept.values()) < every_state / 4
