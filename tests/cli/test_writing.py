"""Text that grows: the cut before a stop text does not depend on pieces, and rows of a batch come in order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from small_runs import Star

from star.cli.generate import heading
from star.cli.writing import StopText, batch_pieces, pieces
from star.data import ByteTokenizer

letters = st.text("ab\n", max_size=14)
stop_lists = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


def cut(text: str, stops: list[str]) -> str:
    """Everything before the stop text that is complete first, the longest of those that end together."""
    for end in range(len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            return text[: end - max(map(len, ended))]
    return text


@given(letters, stop_lists, st.randoms())
@example("aab", ["ab"], None)
@example("abab\n", ["abb", "b\n"], None)
def test_the_cut_is_the_same_however_the_text_comes(text: str, stops: list[str], rng) -> None:
    filtered, told, rest = StopText(stops), "", text
    while rest:
        size = rng.randint(1, len(rest)) if rng else 1
        told += filtered.push(rest[:size])
        rest = rest[size:]
        assert cut(text, stops).startswith(told)
    assert told + filtered.finish() == cut(text, stops)


def test_only_what_may_become_a_stop_text_is_held_back() -> None:
    filtered = StopText(["END"])
    assert [filtered.push(piece) for piece in ("so ", "E", "N", "Ex", "EN", "D tail", "more")] == [
        "so ",
        "",
        "",
        "ENEx",
        "",
        "",
        "",
    ]
    assert filtered.reached
    assert filtered.finish() == ""


def tokens(*texts: str) -> list[torch.Tensor]:
    """Rows of bytes; shorter ones end with end-of-text, repeated."""
    rows = [[*text.encode(), 256] for text in texts]
    length = max(map(len, rows))
    return list(torch.tensor([row + [256] * (length - len(row)) for row in rows]).unbind(1))


def test_generation_ends_with_the_stop_text() -> None:
    taken = []
    stream = (taken.append(1) or token for token in tokens("one\ntwo\nthree"))
    assert "".join(pieces(stream, ByteTokenizer(), ["\n"])) == "one"
    assert len(taken) == 4


def test_rows_are_told_one_after_the_other_the_first_as_it_grows() -> None:
    told = list(batch_pieces(tokens("aé", "bcdef", "g"), ByteTokenizer(), [], 3))
    assert [row for row, _ in told] == sorted(row for row, _ in told)
    assert ["".join(text for row, text in told if row == index) for index in range(3)] == ["aé", "bcdef", "g"]
    assert told[0] == (0, "a")
    assert told[-1][0] == 2


def test_rows_that_never_end_are_told_whole() -> None:
    told = list(batch_pieces(iter(torch.tensor([[97, 98], [97, 98]])), ByteTokenizer(), ["x"], 2))
    assert ["".join(text for row, text in told if row == index) for index in range(2)] == ["aa", "bb"]


def test_a_heading_is_one_short_line() -> None:
    assert heading(1, "def add(\n    first") == "== 1: def add( first"
    assert len(heading(2, "x" * 500)) < 80


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned nothing, and so writes anything."""
    from star.lm import LanguageModel

    folder = tmp_path_factory.mktemp("checkpoint")
    LanguageModel.from_genome("11111 51111 91111", width=32, vocab_size=257, seed=5).save(folder)
    ByteTokenizer().save(folder)
    return folder


GREEDY = ("--greedy", "--max-tokens", "24", "--repetition-penalty", "1.3")


def test_several_prompts_are_continued_as_each_alone(star: Star, checkpoint: Path) -> None:
    prompts = ["the fox", "a", "", "twelve hens and one cow"]
    alone = [star("generate", checkpoint, prompt, *GREEDY).out for prompt in prompts]
    answer = star("generate", checkpoint, *prompts, *GREEDY)
    assert answer.status == 0, answer.err
    expected = [
        f"{heading(number, prompt)}\n{text}"
        for number, (prompt, text) in enumerate(zip(prompts, alone, strict=True), 1)
    ]
    assert answer.out == "\n".join(expected)


def test_stop_texts_end_the_text_before_them(star: Star, checkpoint: Path) -> None:
    free = star("generate", checkpoint, "the fox", *GREEDY).out.removesuffix("\n")
    stop = free[7:10]
    answer = star("generate", checkpoint, "the fox", *GREEDY, "--stop", "never\0this", "--stop", stop)
    assert answer.out == free[: free.index(stop)] + "\n"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("x", "--stop", ""), "--stop is empty"),
        (("-", "-"), "several times"),
        (("x", "--repetition-penalty", "0"), "repetition_penalty is 0"),
    ],
)
def test_mistakes_are_told(star: Star, checkpoint: Path, arguments: tuple[str, ...], part: str) -> None:
    answer = star("generate", checkpoint, *arguments)
    assert answer.status == 2
    assert part in answer.err
