"""What to train on: the settings of a corpus. Imports neither torch nor numpy."""

from __future__ import annotations

from pydantic import Field, field_validator

from star.errors import StarError
from star.validation import CheckedModel

PYTHON_STDLIB = "python-stdlib"
BYTES = "bytes"
BPE_PREFIX = "bpe:"
SMALLEST_BPE = 257  # 256 bytes and end-of-text: below that some text has no tokens
LARGEST_BPE = 1_000_000


class DataRecipe(CheckedModel):
    """Where the text comes from, how it becomes tokens, and how much of it is held out."""

    source: str = Field(
        default=PYTHON_STDLIB,
        min_length=1,
        description="a text file, a folder, a .jsonl, .jsonl.gz or .parquet file, or 'python-stdlib'",
    )
    tokenizer: str = Field(default=BYTES, description="'bytes', 'bpe:VOCAB' or the path of a tokenizer.json")
    text_field: str = Field(default="text", min_length=1, description="the JSONL field or Parquet column")
    validation_fraction: float = Field(default=0.05, gt=0, lt=1, description="the share of documents that is held out")

    @field_validator("tokenizer")
    @classmethod
    def _known_tokenizer(cls, value: str) -> str:
        if value == BYTES or value.endswith(".json"):
            return value
        if value.startswith(BPE_PREFIX):
            bpe_vocabulary(value)
            return value
        raise StarError(
            f"{value!r} names no tokenizer: use 'bytes', 'bpe:VOCAB' (such as bpe:4096) or the path of a tokenizer.json"
        )


def bpe_vocabulary(spec: str) -> int:
    """The vocabulary size in `bpe:VOCAB`. Raises StarError where it is no number in the allowed range."""
    text = spec.removeprefix(BPE_PREFIX)
    size = int(text) if text.isascii() and text.isdigit() else 0
    if not SMALLEST_BPE <= size <= LARGEST_BPE:
        raise StarError(
            f"{spec!r} asks for no possible vocabulary: give a whole number from {SMALLEST_BPE} to "
            f"{LARGEST_BPE}, such as bpe:4096"
        )
    return size
