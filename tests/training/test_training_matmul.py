"""A training multiplies as its recipe says, in float32 or not at all, and leaves the caller's choice as it was."""

from __future__ import annotations

import pytest
import torch
from tiny_model import TinyModel

from star.data import TokenizedCorpus
from star.errors import StarError
from star.liv.kernels import matmul as library
from star.liv.kernels.matmul import Probe, by_onednn, goes_to_onednn, probe
from star.lm import LanguageModel
from star.training import Matmul, TrainingRecipe, train
from star.training.precision import multiplying

CPU, GPU = torch.device("cpu"), torch.device("cuda")
NEEDS_FLOAT32 = pytest.mark.skipif(not probe().is_float32, reason=str(probe()))


def of_error(monkeypatch: pytest.MonkeyPatch, error: float | None) -> None:
    monkeypatch.setattr("star.training.precision.probe", lambda: Probe(4e-7, error))


class Enough(Exception):
    pass


@pytest.mark.skipif(library.SETTING is None, reason="this PyTorch cannot send products to oneDNN")
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_products_go_to_onednn_during_a_training_only(
    corpus: TokenizedCorpus, recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch, fails: bool, own: bool
) -> None:
    of_error(monkeypatch, 4e-7)
    seen = []

    def look(_: object) -> None:
        seen.append(goes_to_onednn())
        if fails:
            raise Enough

    with by_onednn(own):
        for matmul in Matmul:
            try:
                train(TinyModel(), corpus, recipe.replace(matmul=matmul), seed=0, on_step=look)
            except Enough:
                assert fails
            assert goes_to_onednn() is own
            assert set(seen) == {own or matmul is Matmul.ONEDNN}
            seen.clear()


@NEEDS_FLOAT32
def test_losses_are_those_of_the_default_up_to_rounding(corpus: TokenizedCorpus, recipe: TrainingRecipe) -> None:
    curves = []
    for matmul in Matmul:
        model = LanguageModel.from_genome(
            "11111 91111 51111 91111", width=64, vocab_size=corpus.vocab_size, length=64, seed=0
        )
        longer = recipe.replace(matmul=matmul, tokens=256 * 12, batch_tokens=256, length=64, peak_learning_rate=2e-3)
        curves.append([loss for _, loss in train(model, corpus, longer, seed=0).curve])
    assert curves[1] == pytest.approx(curves[0], rel=2e-5)
    assert curves[0][-1] < curves[0][0]


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (2e-3, r"oneDNN does not multiply in float32 on this CPU \(error 2.0e-03, by default 4.0e-07\)"),
        (None, "this PyTorch cannot send products to oneDNN"),
    ],
)
def test_onednn_is_refused_where_its_products_are_not_float32(
    corpus: TokenizedCorpus, recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch, error: float | None, seen: str
) -> None:
    of_error(monkeypatch, error)
    model = TinyModel()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(StarError, match=f"training.matmul is 'onednn', but {seen}; set it to 'default'"):
        train(model, corpus, recipe.replace(matmul="onednn"), seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    train(model, corpus, recipe, seed=0)


def test_gpus_do_not_care(monkeypatch: pytest.MonkeyPatch) -> None:
    of_error(monkeypatch, None)
    with multiplying(Matmul.ONEDNN, GPU):
        assert not goes_to_onednn()
    with multiplying(Matmul.DEFAULT, CPU):
        assert not goes_to_onednn()
