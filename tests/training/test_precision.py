from __future__ import annotations

import pytest
import torch

from star.data import TokenizedCorpus
from star.lm import LanguageModel
from star.training import Precision, TrainingRecipe, threads, train
from star.training.compilation import compiled
from star.training.precision import TILES_PAY, autocast, own_randomness, seed_generators, uses_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize(("amx", "avx512"), [(False, False), (True, False), (False, True)])
def test_auto_means_bf16_only_on_cpus_that_multiply_it(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert uses_bf16(Precision.AUTO, CPU, TILES_PAY) is amx
    assert uses_bf16(Precision.AUTO, CPU, None) is amx
    assert not uses_bf16(Precision.AUTO, CPU, TILES_PAY - 1)
    assert uses_bf16(Precision.BF16, CPU, 64)
    assert not uses_bf16(Precision.FP32, CPU, 1024)


@pytest.mark.parametrize("width", [TILES_PAY // 2, TILES_PAY])
def test_training_tells_auto_how_wide_the_model_is(
    monkeypatch: pytest.MonkeyPatch, corpus: TokenizedCorpus, recipe: TrainingRecipe, width: int
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    model = LanguageModel.from_genome("91111", width=width, vocab_size=256, seed=0)
    loss, casts = model.loss, list[bool]()

    def spied(tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        casts.append(torch.is_autocast_enabled("cpu"))
        return loss(tokens, targets)

    monkeypatch.setattr(model, "loss", spied)
    train(model, corpus, recipe.model_copy(update={"precision": Precision.AUTO}).with_tokens(128), seed=0)
    assert set(casts) == {width >= TILES_PAY}


def test_autocast_multiplies_in_the_chosen_precision() -> None:
    x = torch.ones(2, 2)
    with autocast(Precision.BF16, CPU, 64):
        assert (x @ x).dtype == torch.bfloat16
    with autocast(Precision.FP32, CPU, 1024):
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


@pytest.mark.slow
def test_compiled_livs_train_alike() -> None:
    """A compiler rounds differently, no more; and the model is itself again afterwards."""
    livs, losses = [], []
    for wanted in (False, True):
        model = LanguageModel.from_genome("51111 91111 71111 91111", width=32, vocab_size=64, seed=0)
        tokens = torch.randint(0, 64, (2, 2, 48), generator=torch.Generator().manual_seed(0))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        with compiled(model, wanted):
            livs.append([liv._compiled_call_impl is not None for liv in model.backbone.livs])
            for _ in range(3):
                loss = model.loss(*tokens)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
        assert all(liv._compiled_call_impl is None for liv in model.backbone.livs)
    assert livs == [[False] * 4, [True] * 4]
    assert losses[3:] == pytest.approx(losses[:3], rel=1e-4)
