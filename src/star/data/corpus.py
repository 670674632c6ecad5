"""A corpus on disk: the tokens of both sides, the tokenizer that made them, and what people should know."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from star.data.split import Side
from star.data.tokenizer import Tokenizer
from star.errors import StarError

FORMAT = 1  # raise it when the files, the split or the tokenisation change: old caches are then built anew
FACTS_FILE = "corpus.json"


@dataclass(frozen=True)
class CorpusFacts:
    """Everything about a corpus but its tokens; the content of corpus.json."""

    digest: str
    description: str
    dtype: str  # "uint16" or "uint32"
    train_tokens: int
    validation_tokens: int
    train_bytes: int
    validation_bytes: int
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        (folder / FACTS_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> CorpusFacts:
        """Raises StarError where `folder` holds no corpus of this format."""
        path = folder / FACTS_FILE
        try:
            facts = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise StarError(
                f"{folder} holds no prepared corpus ({type(error).__name__} in {FACTS_FILE}): prepare it again"
            ) from None
        if facts.format != FORMAT:
            raise StarError(f"{folder} holds a corpus of format {facts.format}, not {FORMAT}: prepare it again")
        return facts


@dataclass(frozen=True, eq=False)
class TokenizedCorpus:
    """Tokens to train on and tokens held out, memory-mapped and read-only.

    `train` and `validation` are 1-D uint16 or uint32: documents, each followed by end-of-text. `digest` names the
    content, the split and the tokenizer. `bytes_per_token` is the UTF-8 bytes of the validation documents for each
    validation token (end-of-text counts as a token without bytes): it turns nats a token into bits a byte.
    """

    path: Path
    train: np.memmap
    validation: np.memmap
    tokenizer: Tokenizer
    vocab_size: int
    digest: str
    description: str
    bytes_per_token: float

    @classmethod
    def open(cls, path: Path | str) -> TokenizedCorpus:
        """The corpus in a folder that `prepare` made. Raises StarError where it is missing or damaged."""
        path = Path(path)
        facts = CorpusFacts.read(path)
        tokenizer = Tokenizer.load(path)
        return cls(
            path=path,
            train=_map(path, Side.TRAIN, facts.dtype, facts.train_tokens),
            validation=_map(path, Side.VALIDATION, facts.dtype, facts.validation_tokens),
            tokenizer=tokenizer,
            vocab_size=tokenizer.vocab_size,
            digest=facts.digest,
            description=facts.description,
            bytes_per_token=facts.validation_bytes / facts.validation_tokens,
        )

    def require(self, length: int) -> None:
        """Raises StarError unless both sides hold one sequence of `length` tokens and its last target."""
        for side, tokens in ((Side.TRAIN, self.train), (Side.VALIDATION, self.validation)):
            if len(tokens) <= length:
                raise StarError(
                    f"{self.description} has {len(tokens)} {side.value} tokens, too few for one sequence of "
                    f"{length} and its last target: give more text, a smaller length or another validation_fraction"
                )

    def __reduce__(self) -> tuple[Callable[[Path], TokenizedCorpus], tuple[Path]]:
        # A pickle carries the path: a worker maps the same file instead of receiving a copy of the tokens.
        return TokenizedCorpus.open, (self.path,)


def token_file(folder: Path, side: Side) -> Path:
    """Where the tokens of `side` lie."""
    return folder / f"{side.value}.bin"


def _map(folder: Path, side: Side, dtype: str, count: int) -> np.memmap:
    path = token_file(folder, side)
    expected = count * np.dtype(dtype).itemsize
    try:
        size = path.stat().st_size
        if size != expected:
            raise StarError(f"{path} has {size} bytes instead of {expected}: delete {folder} and prepare it again")
        return np.memmap(path, dtype=dtype, mode="r", shape=(count,))
    except (OSError, ValueError) as error:
        if isinstance(error, StarError):
            raise
        raise StarError(f"{path} cannot be read ({error}): delete {folder} and prepare it again") from None
