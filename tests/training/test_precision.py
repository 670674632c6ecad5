from __future__ import annotations

import pytest
import torch

from star.training import Precision, threads
from star.training.precision import autocast, own_randomness, seed_generators, uses_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize(("amx", "avx512"), [(False, False), (True, False), (False, True)])
def test_auto_means_bf16_only_on_cpus_that_multiply_it(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert uses_bf16(Precision.AUTO, CPU) is (amx or avx512)
    assert uses_bf16(Precision.BF16, CPU)
    assert not uses_bf16(Precision.FP32, CPU)


def test_autocast_multiplies_in_the_chosen_precision() -> None:
    x = torch.ones(2, 2)
    with autocast(Precision.BF16, CPU):
        assert (x @ x).dtype == torch.bfloat16
    with autocast(Precision.FP32, CPU):
        assert (x @ x).dtype == torch.float32


def test_the_callers_threads_come_back_even_after_an_error() -> None:
    before = torch.get_num_threads()

    def fail() -> None:
        with threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert torch.get_num_threads() == before


def test_the_callers_random_numbers_are_not_disturbed() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with own_randomness(CPU):
        seed_generators(99, CPU)
        torch.rand(5)
    assert torch.equal(torch.rand(2), expected)
