"""The six tasks of mechanistic architecture design (MAD; Poli et al. 2024) as random sequences, seeded.

Each task probes one skill: recall of pairs given in the sequence (also with keys and values of several tokens, and
among noise), copying tokens in order, squeezing a sequence into one vector, and learning facts that are the same in
every sequence. A task gives tokens and targets [n, ℓ], where `IGNORED` marks positions without a question; difficulties
are the paper's baselines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

IGNORED = -100

Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Task:
    """One task. `generate(rng, n)` draws n sequences; `vocab_size` counts all tokens; `compresses` marks the task whose
    targets are all read from the last position."""

    name: str
    vocab_size: int
    length: int
    generate: Callable[[np.random.Generator, int], Batch]
    compresses: bool = False


def in_context_recall(
    rng: np.random.Generator, n: int, *, vocab: int = 16, length: int = 128, noise: float = 0.0, noise_vocab: int = 16
) -> Batch:
    """Pairs of a key and its value, by a map of each sequence's own; every key that was seen before asks for its value.
    `noise` is the share of positions, between pairs, that hold one of `noise_vocab` other tokens."""
    keys = vocab // 2
    tokens, targets = _empty(n, length)
    for row in range(n):
        value_of = rng.integers(keys, vocab, size=keys)
        seen = np.zeros(keys, dtype=bool)
        place = 0
        while place + 1 < length:
            if noise and rng.random() < noise:
                tokens[row, place] = vocab + rng.integers(noise_vocab)
                place += 1
                continue
            key = rng.integers(keys)
            tokens[row, place : place + 2] = key, value_of[key]
            if seen[key]:
                targets[row, place] = value_of[key]
            seen[key] = True
            place += 2
        if place < length:
            tokens[row, place] = vocab + rng.integers(noise_vocab) if noise else rng.integers(keys)
    return tokens, targets


def fuzzy_in_context_recall(
    rng: np.random.Generator, n: int, *, vocab: int = 16, length: int = 128, motif: int = 3, pairs: int = 8
) -> Batch:
    """Recall where keys and values are 1 to `motif` adjacent tokens; every token of a value that was seen before is
    asked for. Keys of a sequence begin with different tokens, so that none is the beginning of another; token `vocab`
    fills up the end."""
    keys = vocab // 2
    tokens, targets = _empty(n, length)
    tokens[:] = vocab
    for row in range(n):
        firsts = rng.permutation(keys)[: min(pairs, keys)]
        names = [np.append(first, rng.integers(0, keys, size=rng.integers(motif))) for first in firsts]
        values = [rng.integers(keys, vocab, size=rng.integers(1, motif + 1)) for _ in firsts]
        seen = np.zeros(len(firsts), dtype=bool)
        place = 0
        while True:
            pair = rng.integers(len(firsts))
            name, value = names[pair], values[pair]
            start = place + len(name)
            if start + len(value) > length:
                break
            tokens[row, place:start], tokens[row, start : start + len(value)] = name, value
            if seen[pair]:
                targets[row, start - 1 : start - 1 + len(value)] = value
            seen[pair] = True
            place = start + len(value)
    return tokens, targets


def selective_copying(
    rng: np.random.Generator, n: int, *, vocab: int = 16, length: int = 256, copied: int = 16
) -> Batch:
    """`copied` tokens scattered among blanks (token `vocab`), to be repeated in order where copy marks (`vocab` + 1)
    stand at the end."""
    tokens, targets = _empty(n, length)
    tokens[:, : length - copied] = vocab
    tokens[:, length - copied :] = vocab + 1
    content = rng.integers(0, vocab, size=(n, copied))
    for row in range(n):
        tokens[row, np.sort(rng.permutation(length - copied)[:copied])] = content[row]
    targets[:, length - copied :] = content
    return tokens, targets


def compression(rng: np.random.Generator, n: int, *, vocab: int = 16, length: int = 32) -> Batch:
    """Random tokens and at the end one mark (token `vocab`), from whose output all of them are to be read."""
    tokens, targets = _empty(n, length)
    tokens[:, :-1] = rng.integers(0, vocab, size=(n, length - 1))
    tokens[:, -1] = vocab
    targets[:, :-1] = tokens[:, :-1]
    return tokens, targets


def memorization(rng: np.random.Generator, n: int, *, vocab: int = 256, length: int = 32, facts_seed: int = 0) -> Batch:
    """Keys, each followed by a question mark (token `vocab`) that asks for its value, by one map for all sequences:
    that of `facts_seed`."""
    keys = vocab // 2
    value_of = np.random.default_rng(facts_seed).integers(keys, vocab, size=keys)
    tokens, targets = _empty(n, length)
    asked = rng.integers(0, keys, size=(n, length // 2))
    tokens[:, : 2 * asked.shape[1] : 2], tokens[:, 1::2] = asked, vocab
    targets[:, 1::2] = value_of[asked]
    return tokens, targets


def _noisy(rng: np.random.Generator, n: int) -> Batch:
    return in_context_recall(rng, n, noise=0.2)


TASKS: tuple[Task, ...] = (
    Task("in-context recall", 16, 128, in_context_recall),
    Task("fuzzy in-context recall", 17, 128, fuzzy_in_context_recall),
    Task("noisy in-context recall", 32, 128, _noisy),
    Task("selective copying", 18, 256, selective_copying),
    Task("compression", 17, 32, compression, compresses=True),
    Task("memorization", 257, 32, memorization),
)


def _empty(n: int, length: int) -> Batch:
    return np.zeros((n, length), dtype=np.int64), np.full((n, length), IGNORED, dtype=np.int64)
