"""Text to tokens to batches.

Importing this package imports neither torch nor numpy; `batches` imports torch when the first batch is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from star.data.recipe import DataRecipe

if TYPE_CHECKING:
    from star.data.build import cache_folder, prepare
    from star.data.corpus import TokenizedCorpus
    from star.data.progress import Progress
    from star.data.streaming import StreamDecoder
    from star.data.tokenizer import ByteTokenizer, ModelTokenizer, Tokenizer
    from star.data.windows import batches

__all__ = [
    "ByteTokenizer",
    "DataRecipe",
    "ModelTokenizer",
    "Progress",
    "StreamDecoder",
    "TokenizedCorpus",
    "Tokenizer",
    "batches",
    "cache_folder",
    "prepare",
]

_HOMES = {
    "ByteTokenizer": "tokenizer",
    "ModelTokenizer": "tokenizer",
    "Progress": "progress",
    "StreamDecoder": "streaming",
    "TokenizedCorpus": "corpus",
    "Tokenizer": "tokenizer",
    "batches": "windows",
    "cache_folder": "build",
    "prepare": "build",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
