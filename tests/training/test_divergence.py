from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star.training import Diverged
from star.training.divergence import LossMonitor


def watch(losses: list[float], norm: float = 1.0) -> LossMonitor:
    monitor = LossMonitor()
    for step, loss in enumerate(losses, start=1):
        monitor.check(loss, norm, step)
    return monitor


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_divergence(loss: float) -> None:
    with pytest.raises(Diverged, match=r"the loss is -?(nan|inf) at step 2") as caught:
        watch([5.0, loss])
    assert caught.value.step == 2
    assert caught.value.reason == f"the loss is {loss}"


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_is_divergence(norm: float) -> None:
    with pytest.raises(Diverged, match=r"gradient norm is (nan|inf) at step 1"):
        watch([5.0], norm)


def test_a_loss_that_explodes_and_stays_up_is_divergence() -> None:
    with pytest.raises(Diverged, match=r"exploded from 2\.5"):
        watch([5.5, 4.0, 3.0] + [2.5] * 50 + [5.55] * 50)


def test_a_model_that_gets_worse_from_the_first_step_on_is_divergence() -> None:
    with pytest.raises(Diverged):
        watch([5.5 + step for step in range(30)])


@pytest.mark.parametrize(
    "losses",
    [
        [5.5, 4.0, 3.0] + [2.5] * 50 + [12.0, 7.0, 4.0] + [2.6] * 20,  # a spike that recovers
        [40.0, 20.0, 10.0, 6.0, 5.0],  # a bad start
        [0.01] * 50 + [2.0] + [0.01] * 20,  # one surprise in a text known by heart
    ],
)
def test_what_recovers_is_no_divergence(losses: list[float]) -> None:
    assert watch(losses).smoothed > 0  # and nothing was raised


@settings(deadline=None)
@given(st.lists(st.floats(2.0, 4.0), min_size=1, max_size=100))
def test_noise_is_no_divergence_and_the_mean_stays_within_it(losses: list[float]) -> None:
    smoothed = watch(losses).smoothed
    assert min(losses) - 1e-9 <= smoothed <= max(losses) + 1e-9


def test_before_the_first_step_there_is_no_mean() -> None:
    assert math.isnan(LossMonitor().smoothed)
