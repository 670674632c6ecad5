"""How long a model takes on the device that it is on: the wall time of a prefill, and of one decoded token.

Protocol: one sequence of random tokens, inference mode, the arithmetic that the weights have, the caller's number of
threads. `WARM_UP` repetitions are thrown away, the median of the `REPETITIONS` after them is the answer; a CUDA device
is waited for before each reading of the clock. Other work on the machine makes figures larger and noisier.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from star.lm import LanguageModel

WARM_UP = 2
REPETITIONS = 7


@torch.inference_mode()
def prefill_seconds(model: LanguageModel, length: int) -> float:
    """Median seconds in which a fresh state takes in a prompt of `length` tokens and predicts the next one."""
    tokens = _tokens(model, length)

    def prefill() -> None:
        state = model.init_state(1, length)
        model.last_logits(tokens, state)

    return _in_evaluation(model, lambda: median(_timed(model, prefill) for _ in _repetitions(model, prefill)))


@torch.inference_mode()
def decode_seconds(model: LanguageModel, length: int) -> float:
    """Median seconds of one token after a prompt of `length` tokens."""
    steps = WARM_UP + REPETITIONS
    tokens = _tokens(model, length + steps)

    def measured() -> float:
        state = model.init_state(1, length + steps)
        model.hidden(tokens[:, :length], state)
        times = []
        for step in range(length, length + steps):
            token = tokens[:, step : step + 1]
            times.append(_timed(model, lambda token=token: model.last_logits(token, state)))  # type: ignore[misc]
        return median(times[WARM_UP:])

    return _in_evaluation(model, measured)


def _repetitions(model: LanguageModel, work: Callable[[], object]) -> range:
    for _ in range(WARM_UP):
        _timed(model, work)
    return range(REPETITIONS)


def _timed(model: LanguageModel, work: Callable[[], object]) -> float:
    _wait(model.device)
    began = time.perf_counter()
    work()
    _wait(model.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _tokens(model: LanguageModel, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(model.config.vocab_size, (1, length), generator=generator).to(model.device)


def _in_evaluation(model: LanguageModel, work: Callable[[], float]) -> float:
    was_training = model.training
    model.eval()
    try:
        return work()
    finally:
        model.train(was_training)
