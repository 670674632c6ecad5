"""Which document is held out, and what a corpus is called: both depend on the content of the documents only."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from star.data.progress import Progress, silent
from star.data.sources import Source
from star.errors import StarError

DIGEST_BYTES = 16


class Side(Enum):
    """The two parts of a corpus; the values name their files."""

    TRAIN = "train"
    VALIDATION = "validation"


def document_digest(text: str) -> bytes:
    """A hash of the content of one document, uniformly distributed."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=DIGEST_BYTES).digest()


def _position(digest: bytes) -> float:
    """The place of a document in [0, 1)."""
    return int.from_bytes(digest[:6], "big") / 2**48


@dataclass(frozen=True)
class Split:
    """A document is held out when its hash falls below `fraction`; `moved` is the one exception.

    A document goes to the same side in every corpus with the same fraction, so held-out text stays held out when
    files are added. Only where that would leave one side empty, the document nearest to the boundary changes sides.
    """

    fraction: float
    moved: bytes | None = None

    def side(self, digest: bytes) -> Side:
        held_out = (_position(digest) < self.fraction) != (digest == self.moved)
        return Side.VALIDATION if held_out else Side.TRAIN


@dataclass(frozen=True)
class Scan:
    """What one pass over a source found out."""

    digest: str  # hex, of the distinct documents in their order
    split: Split
    documents: int  # distinct
    size: int  # UTF-8 bytes of the distinct documents
    skipped: Counter[str]


def distinct(source: Source, skipped: Counter[str]) -> Iterator[tuple[bytes, str]]:
    """(digest, text) of every document, without exact repetitions, which are counted as "repeated"."""
    seen: set[bytes] = set()
    for text in source.documents(skipped):
        digest = document_digest(text)
        if digest in seen:
            skipped["repeated"] += 1
            continue
        seen.add(digest)
        yield digest, text


def scan(source: Source, fraction: float, progress: Progress = silent) -> Scan:
    """Reads every document of `source` once.

    Raises:
        StarError: there is no text, or only one distinct document, which cannot be on both sides.
    """
    whole = hashlib.blake2b(digest_size=DIGEST_BYTES)
    skipped: Counter[str] = Counter()
    count = size = 0
    lowest, highest = b"\xff" * DIGEST_BYTES, b""
    for digest, text in distinct(source, skipped):
        whole.update(digest)
        count += 1
        size += len(text.encode("utf-8"))
        lowest, highest = min(lowest, digest), max(highest, digest)
        progress("reading", size, None)
    if count == 0:
        raise StarError(f"{source.name} holds no text{left_out(skipped)}: give UTF-8 text")
    if count == 1:
        raise StarError(
            f"{source.name} holds a single document of {size} bytes{left_out(skipped)}, and validation needs another "
            "one: give more text, or more files"
        )
    moved = None
    if _position(lowest) >= fraction:
        moved = lowest
    elif _position(highest) < fraction:
        moved = highest
    return Scan(whole.hexdigest(), Split(fraction, moved), count, size, skipped)


def describe(name: str, found: Scan) -> str:
    """One line for people: `notes: 612 documents, 11.2 MB (skipped: 3 binary, 1 repeated)`."""
    size = f"{found.documents} documents, {readable_size(found.size)}"
    return f"{name}: {size}{left_out(found.skipped)}"


def left_out(skipped: Counter[str]) -> str:
    """What was skipped, in brackets; nothing at all where nothing was. Empty files are not worth a word."""
    counts = [f"{count} {reason}" for reason, count in sorted(skipped.items()) if count and reason != "empty"]
    return f" (skipped: {', '.join(counts)})" if counts else ""


def readable_size(size: int) -> str:
    """`size` in bytes, with a decimal unit: 11.2 MB."""
    amount = float(size)
    for unit in ("bytes", "kB", "MB"):
        if amount < 1000:
            return f"{size} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"
