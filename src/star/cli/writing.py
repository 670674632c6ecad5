"""Continuations as text that grows: whole characters, cut where a stop text begins, several of a batch in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from star.data import Tokenizer


class StopText:
    """Lets text through up to the first stop text, however it is cut into pieces.

    What may be the beginning of a stop text is held back until that is decided. Of several stop texts the one that is
    complete first ends the text; of those that end together, the longest.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = sorted(stops, key=len, reverse=True)
        self._held = ""
        self.reached = False

    def push(self, text: str) -> str:
        """What is now certain to stand before any stop text."""
        if self.reached:
            return ""
        self._held += text
        found = [(self._held.find(stop) + len(stop), -len(stop)) for stop in self._stops if stop in self._held]
        if found:
            end, length = min(found)
            self.reached = True
            return self._release(end + length, drop=True)
        return self._release(len(self._held) - self._open())

    def finish(self) -> str:
        """What was held back, where the text ends without a stop text."""
        return "" if self.reached else self._release(len(self._held))

    def _open(self) -> int:
        """Length of the longest end of the text that begins a stop text."""
        return max(
            (size for stop in self._stops for size in range(1, len(stop)) if self._held.endswith(stop[:size])),
            default=0,
        )

    def _release(self, size: int, *, drop: bool = False) -> str:
        text, self._held = self._held[:size], "" if drop else self._held[size:]
        return text


class Continuation:
    """One sequence: tokens in, text out. It is `done` after an end-of-text token or a stop text."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._decoder, self._stop, self._end = tokenizer.stream(), StopText(stops), tokenizer.end_of_text
        self.done = False

    def push(self, token: int) -> str:
        """The text that `token` makes certain."""
        if self.done:
            return ""
        if token == self._end:
            return self.finish()
        text = self._stop.push(self._decoder.push(token))
        self.done = self._stop.reached
        return text

    def finish(self) -> str:
        """The rest, where no more tokens come."""
        if self.done:
            return ""
        self.done = True
        return self._stop.push(self._decoder.finish()) + self._stop.finish()


def pieces(stream: Iterable[Tensor], tokenizer: Tokenizer, stops: Sequence[str] = ()) -> Iterator[str]:
    """The text of a stream of tokens, each piece as soon as its characters are complete; ends at a stop text."""
    for _, text in batch_pieces(stream, tokenizer, stops, 1):
        yield text


def batch_pieces(
    stream: Iterable[Tensor], tokenizer: Tokenizer, stops: Sequence[str], count: int
) -> Iterator[tuple[int, str]]:
    """(row, text) of a stream of tokens [count], one row after the other: the first row that is not done yet is told
    as it grows, the later ones wait for their turn. The stream is left as soon as all rows are done."""
    rows = [Continuation(tokenizer, stops) for _ in range(count)]
    waiting = [""] * count
    current = 0
    for tokens in stream:
        for index, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            waiting[index] += row.push(token)
        yield current, waiting[current]
        waiting[current] = ""
        while current < count - 1 and rows[current].done:
            current += 1
            yield current, waiting[current]
            waiting[current] = ""
        if all(row.done for row in rows):
            break
    for index in range(current, count):
        yield index, waiting[index] + rows[index].finish()
