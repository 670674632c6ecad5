from __future__ import annotations

import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from star.data.streaming import WindowStreamDecoder
from star.data.tokenizer import ByteTokenizer, ModelTokenizer, Tokenizer

BPE = ModelTokenizer.train(["the cat sat on the mat, naïvely: 日本語 🙂🙂"] * 4, 290)


def byte_fallback() -> ModelTokenizer:
    """Words with a marked space, and bytes for everything else: the shape of a Llama tokenizer."""
    vocabulary = {"<unk>": 0, "</s>": 1} | {f"<0x{byte:02X}>": byte + 2 for byte in range(256)}
    vocabulary |= {letter: len(vocabulary) + index for index, letter in enumerate("▁helowrd")}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    model.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    d = tokenizers.decoders
    model.decoder = d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)])
    model.add_special_tokens(["</s>"])
    return ModelTokenizer(model)


LLAMA = byte_fallback()
any_text = st.text(st.characters(codec="utf-8"), max_size=40)


def pieces(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    decoder = tokenizer.stream()
    return [*(decoder.push(token) for token in tokens), decoder.finish()]


@settings(deadline=None)
@given(any_text)
def test_streamed_text_is_the_text(text: str) -> None:
    for tokenizer in (ByteTokenizer(), BPE):
        assert "".join(pieces(tokenizer, tokenizer.encode(text))) == text


@settings(deadline=None)
@given(st.lists(st.integers(0, 256), max_size=40))
def test_any_bytes_stream_as_they_decode_at_once(tokens: list[int]) -> None:
    tokenizer = ByteTokenizer()
    assert "".join(pieces(tokenizer, tokens)) == tokenizer.decode(tokens)


@settings(deadline=None)
@given(st.lists(st.integers(0, BPE.vocab_size - 1), max_size=40))
def test_any_bpe_tokens_stream_as_they_decode_at_once(tokens: list[int]) -> None:
    assert "".join(pieces(BPE, tokens)) == BPE.decode(tokens)


@settings(deadline=None)
@given(st.text(st.sampled_from("hello world é日🙂"), max_size=20))
def test_other_tokenizers_stream_as_they_decode_at_once(text: str) -> None:
    assert isinstance(LLAMA.stream(), WindowStreamDecoder)
    tokens = LLAMA.encode(text)
    assert "".join(pieces(LLAMA, [*tokens, LLAMA.end_of_text])) == LLAMA.decode(tokens)


def test_a_character_is_told_with_its_last_byte() -> None:
    assert pieces(ByteTokenizer(), list("aé🙂".encode())) == ["a", "", "é", "", "", "", "🙂", ""]


def test_a_character_split_over_fallback_bytes_is_told_with_its_last() -> None:
    told = pieces(LLAMA, LLAMA.encode("h🙂"))
    assert [piece for piece in told if piece] == ["h", "🙂"]
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(told)


def test_an_incomplete_character_is_told_at_the_end() -> None:
    assert pieces(ByteTokenizer(), list("é".encode())[:1]) == ["", "\N{REPLACEMENT CHARACTER}"]


def test_end_of_text_is_silent() -> None:
    for tokenizer in (ByteTokenizer(), BPE, LLAMA):
        assert tokenizer.stream().push(tokenizer.end_of_text) == ""
        tokens = tokenizer.encode("hello")
        assert "".join(pieces(tokenizer, [*tokens, tokenizer.end_of_text, *tokens])).startswith("hello")
