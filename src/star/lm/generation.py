"""Decoding: one token at a time from a state that is allocated once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from star.errors import StarError

if TYPE_CHECKING:
    from star.lm.model import LanguageModel


def generate(
    model: LanguageModel,
    tokens: Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_tokens: Sequence[int] = (),
    generator: torch.Generator | None = None,
    attention_mask: Tensor | None = None,
) -> Iterator[Tensor]:
    """Continue tokens [B, ℓ] by up to `max_new_tokens`, yielding [B] int64 at a time.

    temperature 0 is greedy; top_k keeps the k likeliest tokens, top_p the likeliest that together have probability
    top_p. A sequence that has produced a stop token repeats it; generation ends when all have. Prompts of unequal
    length are padded on the left, with attention_mask 0 there. Raises `StarError` for settings out of range.
    """
    if tokens.shape[1] < 1:
        raise StarError("the prompt is empty; generation needs at least one token.")
    if max_new_tokens < 1:
        raise StarError(f"{max_new_tokens} new tokens were asked for; ask for at least 1.")
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise StarError(
            f"temperature {temperature}, top_k {top_k}, top_p {top_p}: temperature is at least 0, top_k at least 1, "
            f"top_p in (0, 1]."
        )
    return _tokens(model, tokens, max_new_tokens, temperature, top_k, top_p, stop_tokens, generator, attention_mask)


def _tokens(
    model: LanguageModel,
    tokens: Tensor,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    stop_tokens: Sequence[int],
    generator: torch.Generator | None,
    attention_mask: Tensor | None,
) -> Iterator[Tensor]:
    stops = torch.tensor(list(stop_tokens), dtype=torch.long, device=tokens.device)
    finished = torch.zeros(tokens.shape[0], dtype=torch.bool, device=tokens.device)
    state = model.init_state(tokens.shape[0], tokens.shape[1] + max_new_tokens)
    last = tokens[:, -1]
    inputs, mask = tokens, attention_mask
    for _ in range(max_new_tokens):
        with torch.inference_mode():
            logits = model.head(model.hidden(inputs, state, mask)[:, -1])
            following = sample(logits, temperature, top_k, top_p, generator)
        last = torch.where(finished, last, following.clone())
        yield last
        finished = finished | torch.isin(last, stops)
        if bool(finished.all()):
            return
        inputs, mask = last.unsqueeze(1), None


def sample(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator | None
) -> Tensor:
    """One token [B] from logits [B, vocab]."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if top_p is not None and top_p < 1:
        ordered, index = logits.sort(descending=True)
        probability = ordered.softmax(-1)
        # Drop a token where the likelier ones alone already reach top_p; the likeliest always stays.
        drop = probability.cumsum(-1) - probability >= top_p
        logits = logits.masked_fill(drop.scatter(-1, index, drop), float("-inf"))
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)
