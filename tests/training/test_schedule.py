from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star.errors import StarError
from star.training import TrainingRecipe
from star.training.schedule import learning_rate


def rates(**settings: Any) -> list[float]:
    values: dict[str, Any] = {"tokens": 10_000, "batch_tokens": 100, "warmup_tokens": 2000, "length": 100, **settings}
    recipe = TrainingRecipe(**values)
    return [learning_rate(recipe, step) for step in range(recipe.steps)]


def test_it_rises_to_the_peak_and_falls_to_the_last_rate() -> None:
    found = rates(peak_learning_rate=1.0, final_learning_rate_ratio=0.1)
    assert found[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert max(found) == found[19] == 1.0
    assert found[19:] == sorted(found[19:], reverse=True)
    assert found[59] == pytest.approx(0.55)  # half of the way down
    assert found[-1] == pytest.approx(0.1)


def test_without_warm_up_it_only_falls() -> None:
    found = rates(warmup_tokens=0, peak_learning_rate=1.0, final_learning_rate_ratio=0.0)
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.99
    assert found[-1] == pytest.approx(0, abs=1e-12)


def test_a_ratio_of_one_stays_at_the_peak() -> None:
    assert set(rates(warmup_tokens=0, peak_learning_rate=0.5, final_learning_rate_ratio=1)) == {0.5}


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 500), st.integers(0, 3000), st.floats(0, 1))
def test_it_is_always_between_nothing_and_the_peak(tokens: int, batch: int, warmup: int, ratio: float) -> None:
    if tokens < batch or warmup >= tokens:
        return
    found = rates(tokens=tokens, batch_tokens=batch, warmup_tokens=warmup, length=1, final_learning_rate_ratio=ratio)
    assert all(0 <= rate <= 8e-4 * (1 + 1e-12) for rate in found)
    if len(found) * batch > warmup:
        assert found[-1] == pytest.approx(8e-4 * ratio, abs=1e-12)


def test_a_trapezoid_does_not_know_its_budget_before_it_decays() -> None:
    settings = {"schedule": "trapezoid", "decay_share": 0.2, "peak_learning_rate": 1.0, "warmup_tokens": 500}
    short, long = rates(tokens=2000, **settings), rates(tokens=10_000, **settings)
    assert short[:16] == long[:16], "warm-up and constant part"
    assert long[5:80] == [1.0] * 75
    assert short[16:] == pytest.approx([0.775, 0.55, 0.325, 0.1])
    assert long[80:] == sorted(long[80:], reverse=True)
    assert long[-1] == pytest.approx(0.1)


def test_a_warm_up_that_reaches_into_the_decay_is_refused() -> None:
    with pytest.raises(StarError, match="begins after 1600 of 2000 tokens: lower warmup_tokens"):
        rates(tokens=2000, schedule="trapezoid", warmup_tokens=1700)
