"""Parts of a batch side by side give what they give one after the other, bit by bit."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import TinyModel
from torch import Tensor

from star.data import TokenizedCorpus
from star.errors import StarError
from star.genome import OptionPool, random_genome
from star.liv.kernels import forced
from star.liv.kernels.choice import forced_implementation
from star.lm import LanguageModel
from star.training import CheckpointPolicy, StepReport, TrainingRecipe, train
from star.training.replicas import Replicas

SHARING = "21111 91111 21211 91211"  # LIVs that share feature groups, so weights that are used twice
PATIENCE = 20.0  # seconds in which a replica meets another


def still() -> TinyModel:
    return TinyModel(dropout=0.0)


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(("replicas", "micro"), [(2, 32), (2, 16), (3, 16), (4, 16), (2, 48)])
def test_replicas_change_no_bit(corpus: TokenizedCorpus, recipe: TrainingRecipe, replicas: int, micro: int) -> None:
    alone, together = still(), still()
    first = train(alone, corpus, recipe.replace(micro_batch_tokens=micro), seed=0)
    second = train(together, corpus, recipe.replace(micro_batch_tokens=micro), seed=0, replicas=replicas)
    assert same(alone, together)
    assert first.curve == second.curve


def test_gradients_are_added_in_the_order_of_the_batch() -> None:
    """Though the first part is ready last. With (1e8 + 1) − 1e8 float32 tells one order from another."""
    ready = threading.Event()
    parameter = torch.zeros(1, requires_grad=True)

    def first() -> Tensor:
        assert ready.wait(PATIENCE)
        return 1e8 * parameter.sum()

    def second() -> Tensor:
        return parameter.sum()

    def third() -> Tensor:
        ready.set()
        return -1e8 * parameter.sum()

    with Replicas(3, threads=1) as side_by_side:
        side_by_side.accumulate([first, second, third], [parameter])
    assert parameter.grad == torch.tensor(1e8) + 1 - 1e8 != 1


@pytest.mark.parametrize("seed", [0, 1])
def test_bf16_changes_no_bit_either(corpus: TokenizedCorpus, recipe: TrainingRecipe, seed: int) -> None:
    """Autocast keeps weights that were cast before for all threads of a process, unless it is told not to."""
    models = [
        LanguageModel.from_genome(SHARING, width=64, vocab_size=corpus.vocab_size, length=16, seed=seed)
        for _ in range(3)
    ]
    parts = recipe.replace(micro_batch_tokens=16, precision="bf16")
    for model, replicas in zip(models, (1, 4, 4), strict=True):
        train(model, corpus, parts, seed=0, replicas=replicas)
    assert same(models[0], models[1])
    assert same(models[0], models[2])


@pytest.mark.parametrize("change", [{"compile": True}, {"matmul": "onednn"}])
def test_settings_of_a_whole_process_are_refused(
    corpus: TokenizedCorpus, recipe: TrainingRecipe, change: dict[str, Any]
) -> None:
    with pytest.raises(StarError, match="single replica"):
        train(still(), corpus, recipe.replace(micro_batch_tokens=16, **change), seed=0, replicas=2)


def gradients(model: LanguageModel, parts: list[Tensor], replicas: int) -> list[Tensor | None]:
    parameters = list(model.parameters())
    with Replicas(replicas, threads=1) as side_by_side:
        losses = [partial(model.loss, part[:, :-1], part[:, 1:]) for part in parts]
        values = side_by_side.accumulate(losses, parameters)
    assert len(values) == len(parts)
    found = [parameter.grad for parameter in parameters]
    assert all(
        one.grad is None or one.grad.stride() == one.stride() for one in parameters
    )  # as AdamW takes for granted
    for parameter in parameters:
        parameter.grad = None
    return [*values, *found]


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), implementation=st.sampled_from(["portable", None]), extended=st.booleans())
def test_all_operators_can_run_side_by_side(seed: int, implementation: str | None, extended: bool) -> None:
    pool = OptionPool.paper().extended() if extended else OptionPool.paper()
    genome = random_genome(pool, 4, Random(seed))
    model = LanguageModel.from_genome(genome, pool=pool, width=64, vocab_size=50, length=64, seed=0)
    parts = list(torch.randint(50, (4, 65), generator=torch.Generator().manual_seed(seed)).split(1))
    if implementation is None:
        one, three = (gradients(model, parts, count) for count in (1, 3))
    else:
        with forced(implementation):
            one, three = (gradients(model, parts, count) for count in (1, 3))
    for alone, together in zip(one, three, strict=True):
        assert (alone is None and together is None) or torch.equal(alone, together)


def test_they_really_run_at_the_same_time_with_the_callers_kernels(
    corpus: TokenizedCorpus, recipe: TrainingRecipe
) -> None:
    """Each waits within its loss for another one."""
    meeting = threading.Barrier(2)
    seen: set[tuple[object, int]] = set()

    class Meeting(TinyModel):
        def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
            meeting.wait(PATIENCE)
            seen.add((forced_implementation(), torch.get_num_threads()))
            return super().loss(tokens, targets)

    with forced("portable"):
        expected = forced_implementation()
        train(Meeting(dropout=0.0), corpus, recipe.replace(micro_batch_tokens=16, threads=3), seed=0, replicas=2)
    assert seen == {(expected, 3)}


def test_each_has_its_own_threads_of_pytorch() -> None:
    parameter = torch.zeros(1, requires_grad=True)
    seen: list[int] = []

    def loss() -> Tensor:
        seen.append(torch.get_num_threads())
        return parameter.sum()

    with Replicas(2, threads=3) as side_by_side:
        side_by_side.accumulate([loss] * 4, [parameter])
    assert seen == [3] * 4 != [torch.get_num_threads()] * 4


@pytest.mark.parametrize(("error", "waits"), [(RuntimeError, True), (KeyboardInterrupt, False)])
def test_only_an_interrupted_training_does_not_wait_for_other_parts(error: type[BaseException], waits: bool) -> None:
    parameter = torch.zeros(1, requires_grad=True)
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def broken() -> Tensor:
        assert begun.wait(PATIENCE)
        raise error

    def slow() -> Tensor:
        begun.set()
        may_end.wait(PATIENCE if not waits else 0.5)
        ended.set()
        return parameter.sum()

    with pytest.raises(error), Replicas(2, threads=1) as side_by_side:
        side_by_side.accumulate([broken, slow, slow, slow], [parameter])
    assert ended.is_set() is waits
    may_end.set()
    assert ended.wait(PATIENCE)
    assert parameter.grad is None


@pytest.mark.parametrize(("device", "count"), [("cpu", 3), ("meta", 1)])
def test_only_cpus_compute_in_replicas(
    corpus: TokenizedCorpus, recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch, device: str, count: int
) -> None:
    class Asked(Exception):
        pass

    def asked(count: int, threads: int) -> None:
        raise Asked(count, threads)

    monkeypatch.setattr("star.training.loop.Replicas", asked)
    with pytest.raises(Asked) as found:
        train(still(), corpus, recipe.replace(micro_batch_tokens=16, threads=2), seed=0, device=device, replicas=3)
    assert found.value.args == (count, 2)


@pytest.mark.parametrize("count", [0, -1])
def test_no_replicas_are_refused(corpus: TokenizedCorpus, recipe: TrainingRecipe, count: int) -> None:
    with pytest.raises(StarError, match="at least 1"):
        train(still(), corpus, recipe, seed=0, replicas=count)


@pytest.mark.parametrize("replicas", [1, 4])
def test_an_autocast_of_the_caller_changes_no_bit(
    corpus: TokenizedCorpus, recipe: TrainingRecipe, replicas: int
) -> None:
    alone, within = still(), still()
    parts = recipe.replace(micro_batch_tokens=16, precision="fp32")
    train(alone, corpus, parts, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        train(within, corpus, parts, seed=0, replicas=replicas)
    assert same(alone, within)


def test_gradients_of_no_more_parts_are_held_than_there_are_replicas() -> None:
    """A part is begun when the one that many before it has been added."""
    parameter = torch.zeros(1, requires_grad=True)
    begun: list[int] = []

    def loss(number: int) -> Tensor:
        begun.append(number)
        done = 0.0 if parameter.grad is None else float(parameter.grad)
        assert number - done < 2
        return parameter.sum()

    with Replicas(2, threads=1) as side_by_side:
        side_by_side.accumulate([partial(loss, number) for number in range(20)], [parameter])
    assert sorted(begun) == list(range(20))
    assert parameter.grad == 20


def test_parameters_whose_gradients_are_one_tensor_get_their_own() -> None:
    first, second = (torch.zeros(3, requires_grad=True) for _ in range(2))
    with Replicas(2, threads=1) as side_by_side:
        side_by_side.accumulate([lambda: (first + second).sum()] * 3, [first, second])
    assert first.grad.tolist() == second.grad.tolist() == [3.0] * 3


def test_a_model_that_draws_random_numbers_is_refused(corpus: TokenizedCorpus, recipe: TrainingRecipe) -> None:
    with pytest.raises(StarError, match=r"draws random numbers.*single one"):
        train(TinyModel(dropout=0.5), corpus, recipe.replace(micro_batch_tokens=32), seed=0, replicas=2)


def test_an_error_in_a_replica_is_the_trainings(corpus: TokenizedCorpus, recipe: TrainingRecipe) -> None:
    class Broken(TinyModel):
        def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
            if threading.current_thread() is not threading.main_thread() and self.calls > 5:
                raise RuntimeError("broken")
            return super().loss(tokens, targets)

    with pytest.raises(RuntimeError, match="broken"):
        train(Broken(dropout=0.0), corpus, recipe.replace(micro_batch_tokens=32), seed=0, replicas=2)
    assert not [one for one in threading.enumerate() if one.name.startswith("replica")]


def test_a_training_continues_with_another_number_of_replicas(
    corpus: TokenizedCorpus, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    parts = recipe.replace(micro_batch_tokens=16)
    whole, cut = still(), still()
    train(whole, corpus, parts, seed=0)

    def stop(report: StepReport) -> None:
        if report.step == 11:
            raise KeyboardInterrupt

    policy = CheckpointPolicy(tmp_path, 64)
    with pytest.raises(KeyboardInterrupt):
        train(cut, corpus, parts, seed=0, checkpoint=policy, on_step=stop, replicas=4)
    again = still()
    seen: list[int] = []
    train(again, corpus, parts, seed=0, checkpoint=policy, on_step=lambda at: seen.append(at.step), replicas=2)
    assert seen[0] > 1
    assert same(whole, again)
