"""Decoding by recorded operations, as a CUDA graph does it: the operations of one token, run again on the same memory,
decode every other token. No GPU is needed to check that: here a dispatch mode records and replays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from views import POOL, VOCAB, tiny

from star import LanguageModel
from star.backbone.replay import SMALLEST_BUCKET, bucket, obstacle, room
from star.errors import StarError
from star.lm.graph import StaticStep

ALWAYS = {
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    9,
    10,
    11,
    12,
    13,
    14,
    15,
    16,
    18,
    20,
    21,
}  # classes that are recorded however they share


class Recording(TorchDispatchMode):
    """Every operation with the tensors that it reads and writes. `replay` runs them again into the same memory, and
    nothing of Python between them."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple, dict, Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        for function, args, kwargs, result in self.operations:
            for one, other in zip(tree_leaves(function(*args, **kwargs)), tree_leaves(result), strict=True):
                if isinstance(other, Tensor) and one.data_ptr() != other.data_ptr():
                    other.copy_(one)


def replayed(model: LanguageModel, tokens: Tensor, prompt: int) -> Tensor:
    """Logits of the tokens after a prompt, by one recording for each number of keys."""
    state = model.init_state(tokens.shape[0], room(model.backbone, tokens.shape[1]))
    model(tokens[:, :prompt], state)
    step, recorded, outputs = StaticStep(model, state), {}, []
    for t in range(prompt, tokens.shape[1]):
        keys = step.set(tokens[:, t])
        if keys not in recorded:
            before = state.fork()
            with Recording() as recording:
                logits = step.logits(keys)
            state.restore(before)  # what comes out must come from the replay
            recorded[keys] = recording, logits
        recording, logits = recorded[keys]
        recording.replay()
        outputs.append(logits.clone())
        state.position += 1
    assert len(recorded) == len({bucket(t, state.max_length) for t in range(prompt, tokens.shape[1])})
    return torch.stack(outputs, 1)


def check_replay(model: LanguageModel, length: int = 40, prompt: int = 3) -> None:
    tokens = torch.randint(0, VOCAB, (2, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        state = model.init_state(2, length)
        model(tokens[:, :prompt], state)
        expected = torch.cat([model(tokens[:, t : t + 1], state) for t in range(prompt, length)], 1)
        torch.testing.assert_close(replayed(model, tokens, prompt), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("liv", "strategy"), [(liv, s) for liv in POOL.ids for s in range(1, len(POOL[liv].strategies) + 1)]
)
def test_every_class_and_sharing_strategy(liv: int, strategy: int) -> None:
    """Is recorded, or refused."""
    model = tiny(f"{liv}.1.1.1.1 9.1.1.1.1 {liv}.1.{1 + strategy % 2}.1.{strategy}")
    if obstacle(model.backbone) is None:
        check_replay(model)
    else:
        assert liv not in ALWAYS


def test_one_recording_for_each_number_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("star.backbone.replay.SMALLEST_BUCKET", 4)
    check_replay(tiny("11111 91111 51111 91111"))


@pytest.mark.parametrize("liv", [19, 23])
def test_rings_wrap_around_from_any_prompt(liv: int) -> None:
    for prompt in (1, 64, 65):
        check_replay(tiny(f"{liv}.1.1.1.1"), length=prompt + 70, prompt=prompt)


def test_states_stay_where_they_are() -> None:
    """A graph reads and writes fixed addresses, whatever wrote the prompt."""
    model = tiny("11111 51111 71111 91111")
    state = model.init_state(2, 20)
    before = [tensor.data_ptr() for branches in state.livs for held in branches for tensor in held.values()]
    with torch.inference_mode():
        model(torch.zeros(2, 5, dtype=torch.long), state)
        step = StaticStep(model, state)
        step.logits(step.set(torch.zeros(2, dtype=torch.long)))
    assert before == [tensor.data_ptr() for branches in state.livs for held in branches for tensor in held.values()]


def test_what_cannot_be_recorded_is_named() -> None:
    long = tiny("11111 81111")
    assert obstacle(long.backbone) == "LIV 1 (class 8) takes other operations for every token"
    assert "float32" in str(obstacle(tiny("11111").to(torch.bfloat16).backbone))
    routed = LanguageModel.from_genome("1.1.1.1.1.1.1.3 9.1.1.1.1.1.1.1", width=32, vocab_size=9, pool=_extended())
    assert obstacle(routed.backbone) == "stage 0 has routed paths"
    tokens = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(StarError, match=r"LIV 1 \(class 8\)"):
        long.generate(tokens, max_new_tokens=2, cuda_graph=True)
    with pytest.raises(StarError, match="needs a model on a CUDA device, and this one is on cpu"):
        tiny("11111").generate(tokens, max_new_tokens=2, cuda_graph=True)
    padded = torch.tensor([[0, 1, 1, 1]])
    with pytest.raises(StarError, match="takes no padded prompts"):
        tiny("11111").generate(tokens, max_new_tokens=2, cuda_graph=True, attention_mask=padded)


def _extended() -> Any:
    from star.genome import Extension

    return POOL.with_extensions(*Extension)


def test_buckets_hold_the_token_and_no_more_than_the_state() -> None:
    for position in (0, 1, SMALLEST_BUCKET - 1, SMALLEST_BUCKET, 1000, 4095):
        keys = bucket(position, 4096)
        assert position < keys <= max(SMALLEST_BUCKET, 2 * position)
    assert bucket(70, 71) == 71


def test_rings_have_room_for_their_window() -> None:
    backbone = tiny("19.1.1.1.1 23.1.1.1.1").backbone
    length = room(backbone, 3)
    assert [state.elements for _, state in _slots(backbone, length)] == [
        state.elements for _, state in _slots(backbone, 10 * length)
    ]


def _slots(backbone: Any, length: int) -> list:
    return [(name, slot) for name, slots in backbone.slots(length).units() for slot in slots]
