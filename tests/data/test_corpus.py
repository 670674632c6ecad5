from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import star.data.build
from star.data import DataRecipe, ModelTokenizer, TokenizedCorpus, cache_folder, prepare
from star.errors import StarError


def texts(tokens: np.ndarray, corpus: TokenizedCorpus) -> set[str]:
    """The documents of a stream of tokens."""
    ends = np.flatnonzero(tokens == corpus.tokenizer.end_of_text)
    return {
        corpus.tokenizer.decode(part[part != corpus.tokenizer.end_of_text]) for part in np.split(tokens, ends + 1)
    } - {""}


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:280"])
def test_every_document_is_on_one_side_in_full(notes: Path, cache: Path, tokenizer: str) -> None:
    corpus = prepare(DataRecipe(source=str(notes), tokenizer=tokenizer, validation_fraction=0.2), cache=cache)
    train, held_out = texts(corpus.train, corpus), texts(corpus.validation, corpus)
    assert train | held_out == {path.read_text() for path in notes.iterdir()}
    assert not train & held_out
    assert 1 <= len(held_out) < len(train)


def test_streams_end_every_document_with_end_of_text(notes: Path, cache: Path) -> None:
    corpus = prepare(DataRecipe(source=str(notes)), cache=cache)
    for tokens in (corpus.train, corpus.validation):
        assert isinstance(tokens, np.memmap)
        assert tokens.dtype == np.uint16
        assert tokens[-1] == corpus.tokenizer.end_of_text
        assert not tokens.flags.writeable
    ends = sum(int((tokens == 256).sum()) for tokens in (corpus.train, corpus.validation))
    assert ends == 40


def test_bytes_per_token_is_that_of_the_held_out_documents(notes: Path, cache: Path) -> None:
    for tokenizer in ("bytes", "bpe:300"):
        corpus = prepare(DataRecipe(source=str(notes), tokenizer=tokenizer), cache=cache)
        size = sum(len(text.encode()) for text in texts(corpus.validation, corpus))
        assert corpus.bytes_per_token == size / len(corpus.validation)


def test_the_tokenizer_is_trained_on_the_training_side_only(
    notes: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    original = ModelTokenizer.train

    def spy(documents: object, vocab_size: int) -> ModelTokenizer:
        seen.update(documents)  # type: ignore[call-overload]
        return original(sorted(seen), vocab_size)

    monkeypatch.setattr(ModelTokenizer, "train", spy)
    corpus = prepare(DataRecipe(source=str(notes), tokenizer="bpe:280", validation_fraction=0.2), cache=cache)
    assert seen == texts(corpus.train, corpus)


def test_a_large_vocabulary_takes_four_bytes_a_token(notes: Path, cache: Path, tmp_path: Path) -> None:
    import tokenizers

    letters = {chr(0x10000 + index): index for index in range(70_000)} | {"<unk>": 70_000}
    path = tmp_path / "tokenizer.json"
    tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, unk_token="<unk>")).save(str(path))
    corpus = prepare(DataRecipe(source=str(notes), tokenizer=str(path)), cache=cache)
    assert corpus.train.dtype == np.uint32
    assert corpus.vocab_size == 70_002
    assert corpus.train.max() == corpus.tokenizer.end_of_text == 70_001


def test_a_given_tokenizer_makes_the_tokens(notes: Path, cache: Path, tmp_path: Path) -> None:
    given = prepare(DataRecipe(source=str(notes), tokenizer="bpe:290"), cache=cache)
    given.tokenizer.save(tmp_path)
    corpus = prepare(DataRecipe(source=str(notes), tokenizer=str(tmp_path / "tokenizer.json")), cache=cache)
    assert corpus.digest != given.digest
    assert np.array_equal(corpus.train, given.train)


def test_a_missing_tokenizer_file_is_refused(notes: Path, cache: Path) -> None:
    with pytest.raises(StarError, match=r"'none\.json' cannot be read"):
        prepare(DataRecipe(source=str(notes), tokenizer="none.json"), cache=cache)


def test_tokens_are_built_once_for_the_same_content_wherever_it_lies(
    notes: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(DataRecipe(source=str(notes)), cache=cache)
    moved = shutil.copytree(notes, notes.parent / "moved")
    monkeypatch.setattr(star.data.build, "_build", lambda *_: pytest.fail("tokenised again"))
    second = prepare(DataRecipe(source=str(moved)), cache=cache)
    assert (second.digest, second.path) == (first.digest, first.path)
    assert first.description == "notes: 40 documents, 7.5 kB"
    assert second.description == "moved: 40 documents, 7.5 kB"


def test_the_digest_names_content_split_and_tokenizer(notes: Path, cache: Path) -> None:
    recipe = DataRecipe(source=str(notes))
    digests = [prepare(recipe, cache=cache).digest]
    digests.append(prepare(recipe.replace(tokenizer="bpe:280"), cache=cache).digest)
    digests.append(prepare(recipe.replace(validation_fraction=0.3), cache=cache).digest)
    (notes / "00.txt").write_text("another text")
    digests.append(prepare(recipe, cache=cache).digest)
    assert len(set(digests)) == 4


def test_a_corpus_reopens_and_pickles_by_its_path(notes: Path, cache: Path) -> None:
    corpus = prepare(DataRecipe(source=str(notes), tokenizer="bpe:280"), cache=cache)
    pickled = pickle.dumps(corpus)
    assert len(pickled) < 1000
    for other in (TokenizedCorpus.open(corpus.path), TokenizedCorpus.open(str(corpus.path)), pickle.loads(pickled)):
        assert np.array_equal(other.train, corpus.train)
        assert np.array_equal(other.validation, corpus.validation)
        assert (other.digest, other.vocab_size) == (corpus.digest, corpus.vocab_size)
        assert (other.description, other.bytes_per_token) == (corpus.description, corpus.bytes_per_token)


@pytest.mark.parametrize("damage", ["corpus.json", "train.bin", "star_tokenizer.json"])
def test_a_damaged_cache_is_built_again(notes: Path, cache: Path, damage: str) -> None:
    corpus = prepare(DataRecipe(source=str(notes)), cache=cache)
    expected = np.array(corpus.train)
    (corpus.path / damage).write_bytes(b"{")
    with pytest.raises(StarError):
        TokenizedCorpus.open(corpus.path)
    again = prepare(DataRecipe(source=str(notes)), cache=cache)
    assert np.array_equal(again.train, expected)


def test_a_folder_without_a_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StarError, match="holds no prepared corpus"):
        TokenizedCorpus.open(tmp_path)


def test_a_build_that_fails_leaves_nothing_behind(notes: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(star.data.build, "_write_tokens", fail)
    with pytest.raises(KeyboardInterrupt):
        prepare(DataRecipe(source=str(notes)), cache=cache)
    assert list((cache / "corpora").iterdir()) == []


def test_folders_abandoned_long_ago_are_removed_and_young_ones_kept(notes: Path, cache: Path) -> None:
    old, young = cache / "corpora" / ".building-old", cache / "corpora" / ".building-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    prepare(DataRecipe(source=str(notes)), cache=cache)
    assert not old.exists()
    assert young.exists()


def test_processes_that_prepare_at_once_agree(notes: Path, cache: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from star.data import DataRecipe, prepare;"
        "c = prepare(DataRecipe(source=sys.argv[1], tokenizer='bpe:300'), cache=Path(sys.argv[2]));"
        "print(c.path, c.train.sum(), c.validation.sum())"
    )
    command = [sys.executable, "-c", script, str(notes), str(cache)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0] * 4
    assert len(outputs) == 1
    assert len(list((cache / "corpora").iterdir())) == 1


def test_text_that_changes_while_it_is_read_is_refused(
    notes: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = star.data.build.scan

    def scan_and_change(*arguments: object) -> object:
        found = original(*arguments)  # type: ignore[arg-type]
        (notes / "00.txt").write_text("changed")
        return found

    monkeypatch.setattr(star.data.build, "scan", scan_and_change)
    with pytest.raises(StarError, match="notes changed while it was read"):
        prepare(DataRecipe(source=str(notes)), cache=cache)


def test_a_corpus_must_hold_a_sequence_on_both_sides(notes: Path, cache: Path) -> None:
    recipe = DataRecipe(source=str(notes))
    corpus = prepare(recipe, cache=cache)
    short = len(corpus.validation)
    assert prepare(recipe, cache=cache, length=short - 1).digest == corpus.digest
    with pytest.raises(StarError, match=f"notes: .*has {short} validation tokens, too few for one sequence of {short}"):
        prepare(recipe, cache=cache, length=short)
    with pytest.raises(StarError, match="train tokens, too few"):
        corpus.require(len(corpus.train))


@pytest.mark.parametrize("content", ["", " \n\n", "tiny"])
def test_empty_and_tiny_files_are_refused(tmp_path: Path, cache: Path, content: str) -> None:
    path = tmp_path / "small.txt"
    path.write_text(content)
    with pytest.raises(StarError, match=r"small\.txt holds"):
        prepare(DataRecipe(source=str(path)), cache=cache)


def test_a_folder_with_nothing_to_read_says_what_it_holds(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"\0")
    with pytest.raises(StarError, match=r"pictures holds no text \(skipped: 1 binary\)"):
        prepare(DataRecipe(source=str(folder)), cache=cache)


def test_a_cache_that_cannot_be_written_is_named(notes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StarError, match=r"the cache .*STAR_CACHE"):
        prepare(DataRecipe(source=str(notes)), cache=tmp_path / "file")


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("STAR_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/home/somebody/.cache/star")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/star")
    monkeypatch.setenv("STAR_CACHE", "~/mine")
    assert cache_folder() == Path("/home/somebody/mine")


def test_progress_ends_at_the_size_of_the_text(notes: Path, cache: Path) -> None:
    last: dict[str, tuple[int, int | None]] = {}
    prepare(
        DataRecipe(source=str(notes), tokenizer="bpe:280"),
        cache=cache,
        progress=lambda stage, done, total: last.__setitem__(stage, (done, total)),
    )
    size = sum(path.stat().st_size for path in notes.iterdir())
    assert last == {
        "reading": (size, None),
        "training the tokenizer": (size, size),
        "tokenising": (size, size),
    }
