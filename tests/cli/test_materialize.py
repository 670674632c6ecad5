"""`star inspect CHECKPOINT` shows its architecture; with --materialize it draws T as the model applies it."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from small_runs import Star

from star.cli.materialize import MOST_TOKENS, TEXT, write_out
from star.data import ByteTokenizer
from star.lm import LanguageModel

GENOME = "11111 10.1.1.1.1 51111 91111 11113"
NAMES = ["SA-1", "SA-1-Diff", "Rec-1", "GMemless", "SA-1"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    LanguageModel.from_genome(GENOME, width=32, vocab_size=257, length=48, seed=2).save(folder)
    ByteTokenizer().save(folder)
    return folder


def test_a_checkpoint_has_an_architecture(star: Star, checkpoint: Path) -> None:
    facts = json.loads(star("inspect", checkpoint, "--json").out)
    assert (facts["width"], facts["length"], facts["checkpoint"]["vocab_size"]) == (32, 48, 257)
    assert [row["name"] for row in facts["livs"]] == NAMES
    genome = json.loads(star("inspect", GENOME, "--width", "32", "--length", "48", "--json").out)
    assert (genome["parameters"], genome["cache_bytes"]) == (facts["parameters"], facts["cache_bytes"])
    table = star("inspect", checkpoint).out
    assert "checkpoint of 257 tokens (tied embeddings), trained at length 48" in table
    assert max(map(len, table.splitlines())) <= 80


def test_what_is_drawn_is_what_the_model_applies(checkpoint: Path) -> None:
    model = LanguageModel.load(checkpoint).eval()
    written = write_out(checkpoint, "some text")
    with torch.no_grad():
        _, matrices = model.backbone.materialize(model.embedding(torch.tensor([list(b"some text")])))
    assert [operator.name for operator in written.operators] == NAMES
    for operator, matrix in zip(written.operators, matrices, strict=True):
        torch.testing.assert_close(torch.from_numpy(operator.matrices), matrix[0])
    attention = torch.from_numpy(written.operators[0].matrices)
    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:2]))
    assert written.operators[1].branches == 2


def test_the_picture_and_the_table(star: Star, checkpoint: Path, tmp_path: Path) -> None:
    answer = star("inspect", checkpoint, "--materialize", "--out", tmp_path / "t.svg")
    assert answer.status == 0, answer.err
    assert answer.err == ""
    assert max(map(len, answer.out.splitlines())) <= 80 + len(str(tmp_path))
    rows = [line.split() for line in answer.out.splitlines() if line[:5].strip().isdigit()]
    assert [row[1] for row in rows] == NAMES
    assert rows[3][3:5] == ["100.0%", "0.00"]  # the memoryless LIV sees its own token only
    drawing = (tmp_path / "t.svg").read_text()
    ElementTree.fromstring(drawing)
    assert all(f"LIV {index}: {name}" in drawing for index, name in enumerate(NAMES))
    page = star("inspect", checkpoint, "--materialize", "--liv", "2", "--out", tmp_path / "t.html", "--json")
    assert [row["name"] for row in json.loads(page.out)["livs"]] == ["Rec-1"]
    assert (tmp_path / "t.html").read_text().startswith("<!doctype html>")
    assert "LIV 0" not in (tmp_path / "t.html").read_text()


def test_without_out_the_picture_lies_beside_the_weights(star: Star, checkpoint: Path) -> None:
    assert len(ByteTokenizer().encode(TEXT)) <= MOST_TOKENS
    answer = star("inspect", checkpoint, "--materialize")
    assert answer.out.splitlines()[-1] == str(checkpoint / "operators.svg")
    assert (checkpoint / "operators.svg").is_file()


def test_a_long_text_is_cut_with_a_notice(star: Star, checkpoint: Path, tmp_path: Path) -> None:
    answer = star("inspect", checkpoint, "--materialize", "--text", "long " * 30, "--out", tmp_path / "t.svg")
    assert answer.err.strip() == "the text has 150 tokens; the first 64 are drawn"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("11111", "--materialize"), "'11111' is not trained"),
        (("CHECKPOINT", "--materialize", "--liv", "5"), "are 0 to 4"),
        (("CHECKPOINT", "--materialize", "--text", ""), "--text is empty"),
        (("CHECKPOINT", "--materialize", "--out", "t.png"), ".svg or .html"),
        (("CHECKPOINT", "--materialize", "--length", "9"), "mean nothing with --materialize"),
        (("CHECKPOINT", "--liv", "1"), "--liv only goes with --materialize"),
        (("CHECKPOINT", "--width", "64"), "have width 32"),
        (("CHECKPOINT", "--depth", "2"), "has 5 LIVs, not 2"),
    ],
)
def test_mistakes_are_told(star: Star, checkpoint: Path, arguments: tuple[str, ...], part: str) -> None:
    answer = star("inspect", *(str(checkpoint) if word == "CHECKPOINT" else word for word in arguments))
    assert answer.status == 2
    assert part in answer.err
    assert len(answer.err.splitlines()) == 1


def test_a_damaged_checkpoint_and_training_a_trained_model_are_refused(
    star: Star, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("[]")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "holds no readable checkpoint" in star("inspect", tmp_path).err
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert "is no checkpoint of this version" in star("inspect", tmp_path).err
    assert "is trained already" in star("train", checkpoint).err
