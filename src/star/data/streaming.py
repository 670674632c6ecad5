"""Text from tokens as they arrive: a character is told as soon as it is complete, and never in halves."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Protocol

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
LONGEST_CHARACTER = 4  # UTF-8 bytes: with byte fallback each can be a token of its own


class StreamDecoder(Protocol):
    """Fed one token at a time. All that it returned, joined, is the text of all the tokens."""

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is incomplete."""

    def finish(self) -> str:
        """What is left at the end: a replacement character for each incomplete one."""


class ByteStreamDecoder:
    """For tokenizers whose tokens stand for fixed bytes: exact, and constant work for each token."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(self._token_bytes(token))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class WindowStreamDecoder:
    """For every other tokenizer, where the text of a token depends on its neighbours (a space before a word).

    It decodes a short window twice, without and with the new token, and returns the difference. Text that ends in a
    replacement character may still become complete, so it is held back, but for no more than a character's length.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._told: list[int] = []  # the tokens of the last text told: the context of the next
        self._held: list[int] = []

    def push(self, token: int) -> str:
        self._held.append(token)
        if self._new_text().endswith(REPLACEMENT) and len(self._held) < LONGEST_CHARACTER:
            return ""
        return self.finish()

    def finish(self) -> str:
        text = self._new_text()
        if text:
            self._told = self._held
        else:  # a token without text (a special token) keeps the context that it stands in
            self._told = self._told + self._held
        self._held = []
        return text

    def _new_text(self) -> str:
        before = self._decode(self._told)
        return self._decode(self._told + self._held)[len(before) :]
