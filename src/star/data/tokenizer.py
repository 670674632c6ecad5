"""Text to tokens and back: bytes, a byte-level BPE trained on the corpus, or a given tokenizer.json.

Every tokenizer has an end-of-text token, which separates documents and has no text of its own. Text is always text:
a document that spells `<|endoftext|>` is encoded as those characters.
"""

from __future__ import annotations

import functools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from star.data.streaming import ByteStreamDecoder, StreamDecoder, WindowStreamDecoder
from star.errors import StarError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HuggingFace

KIND_FILE = "star_tokenizer.json"  # which of the two, and where the end-of-text token is
MODEL_FILE = "tokenizer.json"
END_OF_TEXT = "<|endoftext|>"
# Names under which published tokenizers carry the token that ends a document, most specific first.
END_OF_TEXT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "<|end▁of▁sentence|>", "</s>", "<eos>", "[EOS]", "<|im_end|>")


class Tokenizer(ABC):
    """`vocab_size` token ids from 0, one of which is `end_of_text`."""

    vocab_size: int
    end_of_text: int

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of each text, 1-D int64, without end-of-text."""

    @abstractmethod
    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`; end-of-text is silent, bytes that are not UTF-8 become replacement characters."""

    @abstractmethod
    def stream(self) -> StreamDecoder:
        """A fresh decoder for generation, fed one token at a time."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes the tokenizer into an existing folder; `Tokenizer.load` reads it back."""

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`, without end-of-text. Raises StarError where `text` is not valid Unicode."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise StarError(
                f"the text is not valid Unicode ({text[error.start]!r} at character {error.start}): give UTF-8 text"
            ) from None
        return [int(token) for token in self.encode_batch([text])[0]]

    @staticmethod
    def load(folder: Path | str) -> Tokenizer:
        """The tokenizer that was saved into `folder`. Raises StarError where there is none, or only half of one."""
        path = Path(folder) / KIND_FILE
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            kind = saved["kind"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StarError(
                f"{path} holds no tokenizer ({type(error).__name__}): name a folder that STAR saved"
            ) from None
        if kind == ByteTokenizer.kind:
            return ByteTokenizer()
        model = Path(folder) / MODEL_FILE
        try:
            text = model.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:  # a UnicodeDecodeError is a ValueError
            raise StarError(
                f"{model} cannot be read ({type(error).__name__}), but {KIND_FILE} beside it says that it exists: "
                "copy the whole folder that STAR saved"
            ) from None
        return ModelTokenizer.from_text(text, model)


class ByteTokenizer(Tokenizer):
    """Token = byte; 256 is end-of-text. Nothing to train, and every text has tokens."""

    kind = "bytes"
    vocab_size = 257
    end_of_text = 256

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64) for text in texts]

    def decode(self, tokens: Iterable[int]) -> str:
        return b"".join(map(self._token_bytes, tokens)).decode("utf-8", errors="replace")

    def stream(self) -> StreamDecoder:
        return ByteStreamDecoder(self._token_bytes)

    def save(self, folder: Path) -> None:
        _write_kind(folder, self.kind)

    def _token_bytes(self, token: int) -> bytes:
        return b"" if token == self.end_of_text else bytes((token,))


class ModelTokenizer(Tokenizer):
    """A `tokenizers` model, as in a tokenizer.json. One without an end-of-text token is given one, as its last id."""

    kind = "tokenizer.json"

    def __init__(self, model: HuggingFace) -> None:
        model.no_padding()
        model.no_truncation()
        vocabulary = model.get_vocab()
        name = next((name for name in END_OF_TEXT_NAMES if name in vocabulary), END_OF_TEXT)
        if name not in vocabulary:
            model.add_special_tokens([name])
            vocabulary = model.get_vocab()
        model.encode_special_tokens = True  # "</s>" inside a document is text, not the end of it
        self._model = model
        self.end_of_text = vocabulary[name]
        self.vocab_size = max(vocabulary.values()) + 1  # ids may have gaps

    @classmethod
    def from_text(cls, text: str, origin: Path | str) -> ModelTokenizer:
        """From the content of a tokenizer.json. Raises StarError, naming `origin`, where it is none."""
        from tokenizers import Tokenizer as HuggingFace

        try:
            return cls(HuggingFace.from_str(text))
        except Exception as error:  # the Rust library raises bare Exceptions
            raise StarError(
                f"{origin} is no tokenizer.json of the `tokenizers` library ({error}): save it with "
                "Tokenizer.save(path), or use 'bytes' or 'bpe:VOCAB'"
            ) from None

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> ModelTokenizer:
        """A byte-level BPE of at most `vocab_size` tokens (fewer where `texts` has fewer repeated pairs).

        Deterministic in (`texts`, `vocab_size`). Ids: end-of-text 0, the bytes 1 to 256, then the merges.
        """
        from tokenizers import Tokenizer as HuggingFace
        from tokenizers import decoders, models, pre_tokenizers, trainers

        model = HuggingFace(models.BPE())
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        model.train_from_iterator(texts, trainer)
        return cls(model)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._model.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def decode(self, tokens: Iterable[int]) -> str:
        return self._model.decode([int(token) for token in tokens if token != self.end_of_text])

    def stream(self) -> StreamDecoder:
        if self._byte_level:
            return ByteStreamDecoder(self._token_bytes)
        return WindowStreamDecoder(self.decode)

    def save(self, folder: Path) -> None:
        _write_kind(folder, self.kind)
        (folder / MODEL_FILE).write_text(self._model.to_str(), encoding="utf-8")

    @functools.cached_property
    def _byte_level(self) -> bool:
        decoder = json.loads(self._model.to_str())["decoder"]
        return decoder is not None and decoder["type"] == "ByteLevel"

    @functools.cached_property
    def _silent(self) -> frozenset[int]:
        added = self._model.get_added_tokens_decoder()
        return frozenset({self.end_of_text, *(token for token, entry in added.items() if entry.special)})

    def _token_bytes(self, token: int) -> bytes:
        if token in self._silent:
            return b""
        text = self._model.id_to_token(token) or ""
        letters = byte_letters()
        if all(letter in letters for letter in text):
            return bytes(letters[letter] for letter in text)
        return text.encode("utf-8")  # an added token, which is kept as it is written


@functools.cache
def byte_letters() -> dict[str, int]:
    """The printable letters by which byte-level BPE spells bytes (GPT-2): letter → byte.

    Printable Latin-1 characters stand for themselves, the other bytes for the letters from U+0100, in order.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    spelled = {chr(byte): byte for byte in printable}
    return spelled | {chr(256 + index): byte for index, byte in enumerate(others)}


def _write_kind(folder: Path, kind: str) -> None:
    (folder / KIND_FILE).write_text(json.dumps({"kind": kind}) + "\n", encoding="utf-8")
