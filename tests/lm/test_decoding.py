"""Decoding: batches of unequal prompts, the repetition penalty, stop sequences, and that it streams."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from views import VOCAB, tiny

from star import LanguageModel, StarError
from star.lm import left_pad
from star.lm.generation import penalised

GENOME = "21111 51111 91111 8.1.1.1.1"


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny(GENOME)


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(0, VOCAB, (length,), generator=generator).tolist() for length in lengths]


def continued(model: LanguageModel, batch: list[list[int]], count: int = 12, **options: object) -> torch.Tensor:
    tokens, mask = left_pad(batch, 0)
    options = {"temperature": 0.0, **options}
    return torch.stack(list(model.generate(tokens, attention_mask=mask, max_new_tokens=count, **options)), 1)  # type: ignore[arg-type]


def test_left_pad_puts_padding_before_the_prompt() -> None:
    tokens, mask = left_pad([[1, 2, 3], [4]], 9)
    assert tokens.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert mask.tolist() == [[True, True, True], [False, False, True]]
    for bad in ([], [[1], []]):
        with pytest.raises(StarError, match="at least one"):
            left_pad(bad, 0)


@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.8])
def test_a_batch_continues_each_prompt_as_alone(model: LanguageModel, penalty: float) -> None:
    batch = prompts(3, 11, 1, 7)
    together = continued(model, batch, repetition_penalty=penalty)
    for row, prompt in zip(together, batch, strict=True):
        assert torch.equal(row, continued(model, [prompt], repetition_penalty=penalty)[0])


def by_hand(model: LanguageModel, prompt: list[int], count: int, penalty: float) -> list[int]:
    """Greedy decoding with the penalty, without state, mask or tensors of seen tokens."""
    tokens = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            logits = model(torch.tensor([tokens]))[0, -1].tolist()
        for token in set(tokens):
            logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
        tokens.append(max(range(VOCAB), key=logits.__getitem__))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("penalty", [1.1, 1.5, 5.0, 0.9])
def test_the_penalty_is_that_of_a_plain_loop(model: LanguageModel, penalty: float) -> None:
    (prompt,) = prompts(5)
    assert continued(model, [prompt], 20, repetition_penalty=penalty)[0].tolist() == by_hand(model, prompt, 20, penalty)


def test_a_strong_penalty_repeats_nothing_and_padding_is_not_penalised(model: LanguageModel) -> None:
    batch = prompts(2, 6)
    for row, prompt in zip(continued(model, batch, 10, repetition_penalty=1e9), batch, strict=True):
        whole = [*prompt, *row.tolist()]
        assert len(set(whole[len(prompt) :])) == 10
        assert not set(whole[len(prompt) :]) & set(prompt)
    for pad in range(VOCAB):  # whichever token pads, the text is the same
        tokens, mask = left_pad(batch, pad)
        stream = model.generate(tokens, attention_mask=mask, max_new_tokens=3, temperature=0, repetition_penalty=3.0)
        assert torch.equal(torch.stack(list(stream), 1), continued(model, batch, 3, repetition_penalty=3.0))


@settings(deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=4, max_size=4), st.floats(1, 10))
def test_a_penalty_above_one_never_raises_a_logit(values: list[float], penalty: float) -> None:
    logits = torch.tensor([values], dtype=torch.float64)
    seen = torch.tensor([[True, False, True, False]])
    lowered = penalised(logits, seen, penalty)
    assert bool((lowered[seen] <= logits[seen]).all())
    assert torch.equal(lowered[~seen], logits[~seen])


def test_a_stop_sequence_ends_a_sequence_when_it_is_complete(model: LanguageModel) -> None:
    (prompt,) = prompts(5)
    free = continued(model, [prompt], 12, repetition_penalty=2.0)[0].tolist()
    stop = free[3:6]
    stopped = continued(model, [prompt], 12, repetition_penalty=2.0, stop_sequences=[[VOCAB - 1] * 9, stop])
    assert stopped[0].tolist() == free[:6]
    half = continued(model, [prompt], 12, repetition_penalty=2.0, stop_sequences=[[*stop, free[0]]])
    assert half[0].tolist() == free


def test_the_prompt_does_not_complete_a_stop_sequence(model: LanguageModel) -> None:
    (prompt,) = prompts(5)
    free = continued(model, [prompt], 6, repetition_penalty=2.0)[0].tolist()
    across = [prompt[-1], free[0]]
    assert continued(model, [prompt], 6, repetition_penalty=2.0, stop_sequences=[across])[0].tolist() == free


def test_a_stopped_sequence_waits_for_the_others(model: LanguageModel) -> None:
    batch = prompts(4, 9)
    free = continued(model, batch, 8, repetition_penalty=2.0)
    stop = free[0, 1:3].tolist()
    rows = continued(model, batch, 8, repetition_penalty=2.0, stop_sequences=[stop])
    assert rows[0].tolist() == [*free[0, :3].tolist(), *[stop[-1]] * 5]
    assert torch.equal(rows[1], free[1])


def test_tokens_come_one_by_one(model: LanguageModel) -> None:
    calls: list[int] = []
    handle = model.norm.register_forward_hook(lambda *_: calls.append(1))
    stream = model.generate(torch.tensor([[1, 2]]), max_new_tokens=50, temperature=0)
    assert calls == []
    for count in range(1, 4):
        next(stream)
        assert len(calls) == count
    handle.remove()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty is nan"),
        ({"stop_sequences": [[]]}, "stop sequence is empty"),
        ({"attention_mask": torch.ones(1, 3)}, "attention_mask has shape"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(model: LanguageModel, options: dict, message: str) -> None:
    with pytest.raises(StarError, match=message):
        model.generate(torch.tensor([[1, 2]]), max_new_tokens=1, **options)
