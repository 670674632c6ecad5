from __future__ import annotations

import math

import pytest
import torch
from tiny_model import TinyModel
from torch import Tensor

from star.data import TokenizedCorpus
from star.errors import StarError
from star.training import Diverged, StepReport, TrainingRecipe, train
from star.training.optimizer import AdamW
from star.training.schedule import learning_rate


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_training_lowers_the_loss(corpus: TokenizedCorpus, recipe: TrainingRecipe) -> None:
    result = train(TinyModel(), corpus, recipe.with_tokens(64 * 200), seed=0)
    assert result.final_loss < result.curve[0][1] - 1.5
    assert (result.steps, result.tokens) == (200, 64 * 200)
    assert [tokens for tokens, _ in result.curve] == [64 * step for step in range(1, 201)]
    assert result.seconds > 0


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    corpus: TokenizedCorpus, recipe: TrainingRecipe
) -> None:
    models = [TinyModel() for _ in range(3)]
    for model, seed in zip(models, (7, 7, 8), strict=True):
        torch.manual_seed(torch.seed())  # what the caller did before must not matter
        train(model, corpus, recipe, seed=seed)
    assert same(weights(models[0]), weights(models[1]))
    assert not same(weights(models[0]), weights(models[2]))


def test_every_step_is_reported(corpus: TokenizedCorpus, recipe: TrainingRecipe) -> None:
    reports: list[StepReport] = []
    result = train(TinyModel(), corpus, recipe, seed=0, on_step=reports.append)
    assert [report.step for report in reports] == list(range(1, 21))
    assert {(report.steps, report.total_tokens) for report in reports} == {(20, 1280)}
    assert [(report.tokens, report.loss) for report in reports] == result.curve
    assert [report.learning_rate for report in reports] == [learning_rate(recipe, step) for step in range(20)]
    assert all(report.tokens_per_second > 0 and report.gradient_norm > 0 for report in reports)
    assert reports[0].eta_seconds > 0
    assert reports[-1].eta_seconds == 0


def test_micro_batches_change_the_memory_and_not_the_result(corpus: TokenizedCorpus, recipe: TrainingRecipe) -> None:
    whole, parts = TinyModel(dropout=0).double(), TinyModel(dropout=0).double()
    first = train(whole, corpus, recipe, seed=0)
    second = train(parts, corpus, recipe.replace(micro_batch_tokens=48), seed=0)  # 3 + 1 sequences
    assert parts.calls == 2 * whole.calls
    assert [loss for _, loss in second.curve] == pytest.approx([loss for _, loss in first.curve], abs=1e-5)
    assert torch.allclose(whole.hidden.weight, parts.hidden.weight, atol=1e-5)


def test_the_gradient_is_clipped(
    corpus: TokenizedCorpus, recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []

    class Watched(TinyModel):
        def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
            return super().loss(tokens, targets) * 100

    model, step = Watched(), AdamW.step

    def watched(optimizer: AdamW) -> None:
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norms.append(math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients)))
        step(optimizer)

    monkeypatch.setattr(AdamW, "step", watched)
    train(model, corpus, recipe, seed=0)
    assert norms == pytest.approx([1.0] * 20, rel=1e-3)


def test_only_what_may_decay_decays(corpus: TokenizedCorpus, recipe: TrainingRecipe) -> None:
    class Still(TinyModel):
        """Every parameter gets a gradient of zero, so that only decay moves it."""

        def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
            return sum((parameter * 0).sum() for parameter in self.parameters()) + torch.tensor(1.0)

    model = Still()
    before = weights(model)
    train(model, corpus, recipe, seed=0)
    factor = math.prod(1 - 0.1 * learning_rate(recipe, step) for step in range(20))
    for name, parameter in model.named_parameters():
        expected = factor if name in {"embedding.weight", "hidden.weight", "unused"} else 1.0
        assert torch.allclose(parameter, before[name] * expected, rtol=1e-5), name


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_training_before_it_spoils_the_weights(
    corpus: TokenizedCorpus, recipe: TrainingRecipe, value: float
) -> None:
    class Failing(TinyModel):
        def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
            loss = super().loss(tokens, targets)
            return loss * value if self.calls >= 5 else loss

    model = Failing()
    with pytest.raises(Diverged) as caught:
        train(model, corpus, recipe, seed=0)
    assert caught.value.step == 5
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_gradient_that_is_no_number_ends_the_training(corpus: TokenizedCorpus, recipe: TrainingRecipe) -> None:
    class Rooted(TinyModel):
        def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
            # The root of zero has the value 0 and an infinite slope.
            return super().loss(tokens, targets) + (self.norm.bias * 0).square().sum().sqrt()

    with pytest.raises(Diverged, match="gradient norm is nan at step 1"):
        train(Rooted(), corpus, recipe, seed=0)


def test_a_learning_rate_that_is_far_too_high_is_divergence(corpus: TokenizedCorpus, recipe: TrainingRecipe) -> None:
    with pytest.raises(Diverged):
        train(TinyModel(), corpus, recipe.replace(peak_learning_rate=50.0).with_tokens(64 * 100), seed=0)


def test_bf16_trains_fp32_weights(corpus: TokenizedCorpus, recipe: TrainingRecipe) -> None:
    model = TinyModel()
    seen: set[torch.dtype] = set()
    model.hidden.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    train(model, corpus, recipe.replace(precision="bf16"), seed=0)
    assert seen == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_callers_settings_come_back(corpus: TokenizedCorpus, recipe: TrainingRecipe) -> None:
    inside: list[int] = []
    model = TinyModel().eval()
    before, random = torch.get_num_threads(), torch.get_rng_state()

    def stop(report: StepReport) -> None:
        inside.append(torch.get_num_threads())
        assert model.training
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        train(model, corpus, recipe.replace(threads=before + 2), seed=0, on_step=stop)
    assert inside == [before + 2]
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), random)
    assert not model.training


def test_too_little_text_is_refused(corpus: TokenizedCorpus, recipe: TrainingRecipe) -> None:
    length = len(corpus.train)
    with pytest.raises(StarError, match="too few for one sequence"):
        train(TinyModel(), corpus, recipe.replace(length=length, tokens=length * 2), seed=0)
