"""From a recipe to a corpus on disk, built once for each content, split and tokenizer."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np

from star.data.corpus import FORMAT, CorpusFacts, TokenizedCorpus, token_file
from star.data.progress import Progress, silent
from star.data.recipe import BPE_PREFIX, BYTES, DataRecipe, bpe_vocabulary
from star.data.sources import Source, open_source
from star.data.split import DIGEST_BYTES, Scan, Side, describe, distinct, scan
from star.data.tokenizer import ByteTokenizer, ModelTokenizer, Tokenizer
from star.errors import StarError
from star.machine import cache_folder

BATCH_CHARACTERS = 1 << 20  # encoded at once: bounds memory, and gives the tokenizer's threads something to share
ABANDONED_SECONDS = 24 * 3600  # temporary folders this old belong to processes that died
TEMPORARY = ".building-"
LARGEST_UINT16_VOCABULARY = 1 << 16


def prepare(
    recipe: DataRecipe,
    *,
    length: int | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> TokenizedCorpus:
    """The tokenised corpus of `recipe`, from the cache where its content has been tokenised before.

    The text itself is read on every call, to know its content; only the tokens are cached. Processes may prepare the
    same corpus at the same time. With `length`, both sides must hold a sequence of that many tokens.

    Raises:
        StarError: the text, the tokenizer or the cache folder cannot be used, or there is too little text.
    """
    progress = progress or silent
    source = open_source(recipe)
    maker = _tokenizer_maker(recipe)
    found = scan(source, recipe.validation_fraction, progress)
    digest = _corpus_digest(found, maker.identity)
    folder = (cache or cache_folder()) / "corpora" / digest
    with _explained(folder):
        corpus = _cached(folder) or _build(source, found, maker, digest, folder, progress)
    # The same content may have been tokenised under another name.
    corpus = replace(corpus, description=describe(source.name, found))
    if length is not None:
        corpus.require(length)
    return corpus


@dataclass(frozen=True)
class _TokenizerMaker:
    identity: str  # what decides the tokens, apart from the text
    make: Callable[[Callable[[], Iterator[str]]], Tokenizer]  # given fresh iterators over the training documents


def _tokenizer_maker(recipe: DataRecipe) -> _TokenizerMaker:
    spec = recipe.tokenizer
    if spec == BYTES:
        return _TokenizerMaker(BYTES, lambda texts: ByteTokenizer())
    if spec.startswith(BPE_PREFIX):
        return _TokenizerMaker(spec, lambda texts: ModelTokenizer.train(texts(), bpe_vocabulary(spec)))
    path = Path(spec).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StarError(
            f"the tokenizer {spec!r} cannot be read ({type(error).__name__}): give the path of a tokenizer.json, "
            "'bytes' or 'bpe:VOCAB'"
        ) from None
    tokenizer = ModelTokenizer.from_text(text, path)
    return _TokenizerMaker("file:" + hashlib.sha256(text.encode("utf-8")).hexdigest(), lambda texts: tokenizer)


def _corpus_digest(found: Scan, tokenizer: str) -> str:
    parts = (str(FORMAT), found.digest, repr(found.split.fraction), tokenizer)
    return hashlib.blake2b("\n".join(parts).encode("utf-8"), digest_size=DIGEST_BYTES).hexdigest()


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StarError(
            f"the cache {folder.parent} cannot be used ({error.strerror or error}): make room or name another folder "
            "in the environment variable STAR_CACHE"
        ) from None


def _cached(folder: Path) -> TokenizedCorpus | None:
    """The corpus in `folder`; None where there is none. A damaged one is removed, since it can be built again."""
    if not folder.exists():
        return None
    try:
        return TokenizedCorpus.open(folder)
    except StarError:
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _build(
    source: Source, found: Scan, maker: _TokenizerMaker, digest: str, folder: Path, progress: Progress
) -> TokenizedCorpus:
    """Builds in a temporary folder and renames it, so that `folder` is either absent or complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder.parent))
    try:
        tokenizer = maker.make(lambda: _training_texts(source, found, progress))
        tokenizer.save(temporary)
        _write_tokens(source, found, tokenizer, digest, temporary, progress)
        temporary.chmod(0o755)  # mkdtemp makes it private
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another process was faster, with the same result
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return TokenizedCorpus.open(folder)


def _sweep(parent: Path) -> None:
    for left in parent.glob(f"{TEMPORARY}*"):
        try:
            old = time.time() - left.stat().st_mtime > ABANDONED_SECONDS
        except OSError:
            continue
        if old:
            shutil.rmtree(left, ignore_errors=True)


def _training_texts(source: Source, found: Scan, progress: Progress) -> Iterator[str]:
    done = 0
    for digest, text in distinct(source, Counter()):
        done += len(text.encode("utf-8"))
        progress("training the tokenizer", done, found.size)
        if found.split.side(digest) is Side.TRAIN:
            yield text


def _write_tokens(
    source: Source, found: Scan, tokenizer: Tokenizer, digest: str, folder: Path, progress: Progress
) -> None:
    dtype = "uint16" if tokenizer.vocab_size <= LARGEST_UINT16_VOCABULARY else "uint32"
    content = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with token_file(folder, Side.TRAIN).open("wb") as train, token_file(folder, Side.VALIDATION).open("wb") as held:
        writers = {Side.TRAIN: _Writer(train, tokenizer, dtype), Side.VALIDATION: _Writer(held, tokenizer, dtype)}
        done = 0
        for document, text in distinct(source, Counter()):
            content.update(document)
            writer = writers[found.split.side(document)]
            before = writer.size
            writer.add(text)
            done += writer.size - before
            progress("tokenising", done, found.size)
        for writer in writers.values():
            writer.flush()
            os.fsync(writer.file.fileno())
    if content.hexdigest() != found.digest:
        raise StarError(f"{source.name} changed while it was read: start again when nothing writes to it")
    CorpusFacts(
        digest=digest,
        description=describe(source.name, found),
        dtype=dtype,
        train_tokens=writers[Side.TRAIN].tokens,
        validation_tokens=writers[Side.VALIDATION].tokens,
        train_bytes=writers[Side.TRAIN].size,
        validation_bytes=writers[Side.VALIDATION].size,
    ).write(folder)


class _Writer:
    """Appends documents to one file, each followed by end-of-text; encodes many at a time."""

    def __init__(self, file: IO[bytes], tokenizer: Tokenizer, dtype: str) -> None:
        self.file = file
        self.tokens = 0
        self.size = 0  # UTF-8 bytes of the documents
        self._tokenizer = tokenizer
        self._dtype = dtype
        self._waiting: list[str] = []
        self._characters = 0

    def add(self, text: str) -> None:
        self.size += len(text.encode("utf-8"))
        self._waiting.append(text)
        self._characters += len(text)
        if self._characters >= BATCH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        for tokens in self._tokenizer.encode_batch(self._waiting):
            self.file.write(np.append(tokens, self._tokenizer.end_of_text).astype(self._dtype).tobytes())
            self.tokens += len(tokens) + 1
        self.file.flush()
        self._waiting, self._characters = [], 0
