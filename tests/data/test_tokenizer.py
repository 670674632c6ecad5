from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from star.data.tokenizer import ByteTokenizer, ModelTokenizer, Tokenizer, byte_letters
from star.errors import StarError

TEXTS = ["the cat sat on the mat, naïvely", "def main() -> None:\n    return 日本語\n", "🙂🙂 the end"] * 3
BPE = ModelTokenizer.train(TEXTS, 300)


def word_level(end: str | None = None) -> tokenizers.Tokenizer:
    """A tokenizer whose tokens are whole words with a marked space, as SentencePiece has them."""
    words = ["<unk>", "▁hello", "▁world", "!", "▁", "▁the"] + ([end] if end else [])
    model = tokenizers.Tokenizer(tokenizers.models.Unigram([(word, -1.0) for word in words], unk_id=0))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    model.decoder = tokenizers.decoders.Metaspace()
    if end:
        model.add_special_tokens([end])
    return model


any_text = st.text(st.characters(codec="utf-8"), max_size=60)


@settings(deadline=None)
@given(any_text)
def test_bytes_give_back_every_text(text: str) -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode(text) == list(text.encode())
    assert tokenizer.decode([*tokenizer.encode(text), tokenizer.end_of_text]) == text


@settings(deadline=None)
@given(any_text)
def test_bpe_gives_back_every_text(text: str) -> None:
    tokens = BPE.encode(text)
    assert BPE.decode(tokens) == text
    assert all(0 < token < BPE.vocab_size for token in tokens)


def test_bytes_have_257_tokens() -> None:
    assert (ByteTokenizer.vocab_size, ByteTokenizer.end_of_text) == (257, 256)


def test_bpe_learns_merges_up_to_its_size() -> None:
    assert ModelTokenizer.train(["ab" * 50], 257).vocab_size == 257
    assert BPE.vocab_size == 300
    assert ModelTokenizer.train(["ab ab"], 5000).vocab_size < 5000
    assert len(BPE.encode("the the the")) < len("the the the")


def test_bpe_training_is_the_same_in_another_process(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from star.data.tokenizer import ModelTokenizer;"
        f"ModelTokenizer.train({TEXTS!r}, 300).save(Path(sys.argv[1]))"
    )
    for name, seed in (("a", "1"), ("b", "2")):
        (tmp_path / name).mkdir()
        subprocess.run([sys.executable, "-c", script, tmp_path / name], check=True, env={"PYTHONHASHSEED": seed})
    assert (tmp_path / "a/tokenizer.json").read_text() == (tmp_path / "b/tokenizer.json").read_text()


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE, ModelTokenizer(word_level())])
def test_a_saved_tokenizer_is_the_same_when_loaded(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert type(loaded) is type(tokenizer)
    assert (loaded.vocab_size, loaded.end_of_text) == (tokenizer.vocab_size, tokenizer.end_of_text)
    text = "hello world! <|endoftext|>"
    assert loaded.encode(text) == tokenizer.encode(text)


def test_loading_from_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StarError, match="holds no tokenizer"):
        Tokenizer.load(tmp_path)


def test_half_a_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    BPE.save(tmp_path)
    for content in (None, b"\xff\xfe", b"{}"):
        (tmp_path / "tokenizer.json").unlink(missing_ok=True)
        if content is not None:
            (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(StarError, match=r"tokenizer\.json"):
            Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(StarError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE])
def test_text_that_spells_the_end_of_text_token_is_only_text(tokenizer: Tokenizer) -> None:
    text = "a<|endoftext|>b"
    tokens = tokenizer.encode(text)
    assert tokenizer.end_of_text not in tokens
    assert tokenizer.decode(tokens) == text


def test_a_given_tokenizer_keeps_its_own_end_of_text_token() -> None:
    tokenizer = ModelTokenizer(word_level("</s>"))
    assert tokenizer.end_of_text == 6
    assert tokenizer.vocab_size == 7


def test_a_given_tokenizer_without_an_end_of_text_token_is_given_one() -> None:
    tokenizer = ModelTokenizer(word_level())
    assert tokenizer.end_of_text == 6
    assert tokenizer.vocab_size == 7
    assert tokenizer.decode([1, 6, 2]) == "hello world"


def test_padding_and_truncation_of_a_given_tokenizer_are_switched_off() -> None:
    model = word_level()
    model.enable_truncation(2)
    model.enable_padding(length=2)
    lengths = [len(tokens) for tokens in ModelTokenizer(model).encode_batch(["hello", "hello hello hello hello"])]
    assert lengths[1] >= 4
    assert lengths[0] < lengths[1]


def test_a_file_that_is_no_tokenizer_is_refused_by_name() -> None:
    with pytest.raises(StarError, match=r"some\.json is no tokenizer\.json"):
        ModelTokenizer.from_text('{"a": 1}', "some.json")


def test_text_that_is_not_unicode_is_refused() -> None:
    for tokenizer in (ByteTokenizer(), BPE):
        with pytest.raises(StarError, match="not valid Unicode"):
            tokenizer.encode("a\udc80")


def test_a_batch_is_encoded_as_its_texts_are() -> None:
    for tokenizer in (ByteTokenizer(), BPE):
        batch = tokenizer.encode_batch(TEXTS)
        assert [list(tokens) for tokens in batch] == [tokenizer.encode(text) for text in TEXTS]
        assert all(tokens.dtype == np.int64 for tokens in batch)


def test_byte_letters_are_those_of_the_library() -> None:
    assert set(byte_letters()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_letters().values()) == list(range(256))
    assert byte_letters()["Ġ"] == ord(" ")
