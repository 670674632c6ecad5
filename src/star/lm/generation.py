"""Decoding: one token at a time from a state that is allocated once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from star.backbone.replay import room
from star.errors import StarError
from star.lm.graph import GraphDecoder, require_graph

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
    repetition_penalty: float = 1.0,
    stop_tokens: Sequence[int] = (),
    stop_sequences: Sequence[Sequence[int]] = (),
    generator: torch.Generator | None = None,
    attention_mask: Tensor | None = None,
    cuda_graph: bool = False,
) -> Iterator[Tensor]:
    """Continue tokens [B, ℓ] by up to `max_new_tokens`, yielding [B] int64 at a time.

    temperature 0 is greedy; top_k keeps the k likeliest tokens, top_p the likeliest that together have probability
    top_p. repetition_penalty above 1 makes tokens of the prompt and of the continuation less likely, see `penalised`.
    A sequence that has produced a stop token, or any of stop_sequences (all of it in the continuation), repeats its
    last token; generation ends when all have. Prompts of unequal length are padded on the left, with attention_mask 0
    there, see `left_pad`.

    cuda_graph records the kernels of a token once and replays them, for speed on a GPU; results differ by rounding at
    most. It is for models in float32 without routers and implicit kernels, and prompts without padding, takes a second
    copy of the dense weights, and is new: off unless asked for.

    Raises `StarError` for settings out of range, and for a cuda_graph that cannot be had.
    """
    if tokens.dim() != 2 or tokens.shape[1] < 1:
        raise StarError(f"the prompt has shape {tuple(tokens.shape)}; generation needs [batch, at least one token].")
    if max_new_tokens < 1:
        raise StarError(f"{max_new_tokens} new tokens were asked for; ask for at least 1.")
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise StarError(
            f"temperature {temperature}, top_k {top_k}, top_p {top_p}: temperature is at least 0, top_k at least 1, "
            f"top_p in (0, 1]."
        )
    if not 0 < repetition_penalty < float("inf"):
        raise StarError(f"repetition_penalty is {repetition_penalty}; give a positive number, 1 for none.")
    if any(len(sequence) < 1 for sequence in stop_sequences):
        raise StarError("a stop sequence is empty; each needs at least one token.")
    if attention_mask is not None:
        if attention_mask.shape != tokens.shape:
            raise StarError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, but the prompts {tuple(tokens.shape)}; "
                "give one value for each token."
            )
        attention_mask = attention_mask.bool()
    if cuda_graph:
        require_graph(model, attention_mask)
    following = partial(sample, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
    stops = [*([token] for token in stop_tokens), *stop_sequences]
    return _tokens(model, tokens, max_new_tokens, following, repetition_penalty, stops, attention_mask, cuda_graph)


def left_pad(prompts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Prompts of unequal length as one batch: tokens [B, ℓ] int64 with `pad` on the left, and attention_mask [B, ℓ]
    bool, False there. Raises `StarError` where there is no prompt, or an empty one."""
    if not prompts or any(len(prompt) < 1 for prompt in prompts):
        raise StarError("a batch of prompts needs at least one prompt, and each prompt at least one token.")
    length = max(map(len, prompts))
    tokens = torch.tensor([[pad] * (length - len(prompt)) + list(prompt) for prompt in prompts], dtype=torch.long)
    mask = torch.tensor([[False] * (length - len(prompt)) + [True] * len(prompt) for prompt in prompts])
    return tokens, mask


def _tokens(
    model: LanguageModel,
    tokens: Tensor,
    max_new_tokens: int,
    following: Callable[[Tensor], Tensor],
    penalty: float,
    stops: Sequence[Sequence[int]],
    mask: Tensor | None,
    cuda_graph: bool,
) -> Iterator[Tensor]:
    batch, length = tokens.shape[0], tokens.shape[1] + max_new_tokens
    seen = _seen(tokens, mask, model.config.vocab_size) if penalty != 1 else None
    ending = _Ending(stops, batch, tokens.device)
    state = model.init_state(batch, room(model.backbone, length) if cuda_graph else length)
    replayed = GraphDecoder(model, state) if cuda_graph else None
    last, inputs = tokens[:, -1], tokens
    for _ in range(max_new_tokens):
        with torch.inference_mode():
            if replayed is not None and state.position:
                logits = replayed(last)
            else:
                logits = model.last_logits(inputs, state, mask)
            if seen is not None:
                logits = penalised(logits, seen, penalty)
            drawn = following(logits)
        last = ending.held(last, drawn)
        yield last
        if ending.after(last):
            return
        if seen is not None:
            seen.scatter_(1, last.unsqueeze(1), True)
        inputs, mask = last.unsqueeze(1), None


def _seen(tokens: Tensor, mask: Tensor | None, vocab_size: int) -> Tensor:
    """Which tokens each prompt has, padding apart: [B, vocab] bool."""
    real = torch.ones_like(tokens) if mask is None else mask.long()
    counts = torch.zeros((tokens.shape[0], vocab_size), dtype=torch.long, device=tokens.device)
    return counts.scatter_add_(1, tokens, real) > 0


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits [B, vocab] in which those of `seen` tokens are divided by `penalty` where positive and multiplied by it
    where negative (Keskar et al. 2019, with the sign as the field has it: a penalty above 1 always lowers)."""
    lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, lowered, logits)


class _Ending:
    """Which sequences of a batch have ended: `reached` [B] bool."""

    def __init__(self, stops: Sequence[Sequence[int]], batch: int, device: torch.device) -> None:
        self.reached = torch.zeros(batch, dtype=torch.bool, device=device)
        self._stops = [torch.tensor(list(stop), dtype=torch.long, device=device) for stop in stops]
        longest = max((len(stop) for stop in self._stops), default=0)
        self._tail = torch.full((batch, longest), -1, dtype=torch.long, device=device)  # -1: before the continuation

    def held(self, last: Tensor, drawn: Tensor) -> Tensor:
        """The drawn tokens [B], but the last one again where a sequence has ended."""
        return torch.where(self.reached, last, drawn) if self._stops else drawn.clone()

    def after(self, last: Tensor) -> bool:
        """Take note of the next token [B]; whether all sequences have ended."""
        if not self._stops:
            return False
        self._tail = torch.cat([self._tail[:, 1:], last.unsqueeze(1)], 1)
        for stop in self._stops:
            self.reached = self.reached | (self._tail[:, -len(stop) :] == stop).all(1)
        return bool(self.reached.all())


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
