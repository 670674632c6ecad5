"""The MAD tasks ask what they say, and only what can be known; scores tell architectures apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star import LanguageModel
from star.evaluation.mad import IGNORED, TASKS, Task
from star.evaluation.mad_score import MadSettings, mad_scores, mean_score

by_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
NAMED = {task.name: task for task in TASKS}


def drawn(task: Task, seed: int, n: int = 4) -> tuple[np.ndarray, np.ndarray]:
    return task.generate(np.random.default_rng(seed), n)


@by_task
def test_sequences_are_seeded_and_within_the_vocabulary(task: Task) -> None:
    tokens, targets = drawn(task, 0)
    assert tokens.shape == targets.shape == (4, task.length)
    assert 0 <= tokens.min() <= tokens.max() < task.vocab_size
    asked = targets[targets != IGNORED]
    assert len(asked) > 0
    assert 0 <= asked.min() <= asked.max() < task.vocab_size
    again, other = drawn(task, 0), drawn(task, 1)
    assert np.array_equal(tokens, again[0])
    assert np.array_equal(targets, again[1])
    assert not np.array_equal(tokens, other[0])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["in-context recall", "noisy in-context recall"]))
def test_recall_asks_for_the_value_that_the_key_had_before(seed: int, name: str) -> None:
    tokens, targets = drawn(NAMED[name], seed)
    for row, answers in zip(tokens, targets, strict=True):
        known: dict[int, int] = {}
        for place in range(len(row) - 1):
            key, value = int(row[place]), int(row[place + 1])
            if key >= 8 or value < 8 or value >= 16:
                assert answers[place] == IGNORED
                continue
            assert answers[place] == known.get(key, IGNORED)
            assert known.setdefault(key, value) == value


def test_noise_is_a_fifth_of_the_places_between_pairs() -> None:
    tokens, _ = drawn(NAMED["noisy in-context recall"], 0, 400)
    starts = (tokens < 8).sum()
    noise = (tokens >= 16).sum()
    assert 0.17 < noise / (noise + starts) < 0.23


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_fuzzy_recall_asks_for_every_token_of_a_known_value(seed: int) -> None:
    tokens, targets = drawn(NAMED["fuzzy in-context recall"], seed)
    for row, answers in zip(tokens, targets, strict=True):
        known: dict[tuple[int, ...], tuple[int, ...]] = {}
        place = 0
        while place < len(row) and row[place] < 8:
            key_end = place + next(i for i, token in enumerate(row[place:]) if token >= 8)
            ends = (i for i, token in enumerate(row[key_end:]) if token < 8 or token == 16)
            value_end = key_end + next(ends, len(row) - key_end)
            key, value = tuple(row[place:key_end]), tuple(row[key_end:value_end])
            asked = answers[key_end - 1 : value_end - 1]
            assert tuple(asked) == (known[key] if key in known else (IGNORED,) * len(value))
            assert known.setdefault(key, value) == value
            place = value_end


def test_copying_asks_for_the_tokens_in_their_order() -> None:
    tokens, targets = drawn(NAMED["selective copying"], 0)
    for row, answers in zip(tokens, targets, strict=True):
        assert list(row[row < 16]) == list(answers[-16:])
        assert (row[-16:] == 17).all()
        assert (answers[:-16] == IGNORED).all()


def test_facts_are_the_same_in_all_sequences_and_cover_the_keys() -> None:
    tokens, targets = drawn(NAMED["memorization"], 0, 200)
    facts: dict[int, int] = {}
    for key, value in zip(tokens[:, ::2].ravel(), targets[:, 1::2].ravel(), strict=True):
        assert facts.setdefault(int(key), int(value)) == value
    assert len(facts) == 128


def maker(genome: str, width: int = 32):
    def make(vocab_size: int, length: int, seed: int) -> LanguageModel:
        return LanguageModel.from_genome(genome, width=width, vocab_size=vocab_size, length=length, seed=seed)

    return make


def test_scores_repeat_and_depend_on_the_seed() -> None:
    quick = MadSettings(steps=3, batch_size=4, test_sequences=8)
    first, again, other = (mad_scores(maker("51111 91111"), seed=seed, settings=quick) for seed in (0, 0, 1))
    assert first == again != other
    assert set(first) == set(NAMED)
    assert 0 <= mean_score(first) <= 1


def test_facts_are_learned_and_recall_is_not_without_token_mixing() -> None:
    """Memoryless backbones can only know facts by the key beside the question mark, which they do not see."""
    settings_ = MadSettings(steps=150, batch_size=32)
    tasks = [NAMED["memorization"], NAMED["selective copying"]]
    mixing = mad_scores(maker("71111 91111"), seed=0, settings=settings_, tasks=tasks[:1])
    blind = mad_scores(maker("91111 92121"), seed=0, settings=MadSettings(steps=20), tasks=tasks)
    assert mixing["memorization"] > 0.5
    assert blind["memorization"] < 0.1
    assert blind["selective copying"] < 0.2
