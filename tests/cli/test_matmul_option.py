"""The library for products on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from star.liv.kernels.matmul import Probe

NEW = ("--length", "32", "--tokens", "1024", "--width", "32", "--device", "cpu")


@pytest.fixture
def _in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU whose products by oneDNN are not float32."""
    for module in ("star.liv.kernels.matmul", "star.training.precision"):
        monkeypatch.setattr(f"{module}.probe", lambda: Probe(4e-7, 2e-3))


def refused(answer) -> bool:  # type: ignore[no-untyped-def]
    (error,) = [line for line in answer.err.splitlines() if line.startswith("Error: ")]
    assert answer.status == 2
    return "training.matmul is 'onednn', but oneDNN does not multiply in float32 on this CPU" in error


@pytest.mark.usefixtures("_in_bf16")
def test_a_training_is_refused_and_can_be_had_by_default(star, text: Path, tmp_path: Path) -> None:
    command = ("train", "11111", "--data", text, "--out", tmp_path / "one", *NEW)
    assert refused(star(*command, "--matmul", "onednn"))
    assert not (tmp_path / "one").exists()
    assert star(*command, "--matmul", "default").status == 0


@pytest.mark.usefixtures("_in_bf16")
@pytest.mark.parametrize("calibrate", ["--calibrate", "--no-calibrate"])
def test_a_search_is_refused_before_a_candidate_is_tried(
    star, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibrate: str
) -> None:
    monkeypatch.setattr("star.synthesis.session.devices", lambda: ["cpu"])
    recipe = tmp_path / "own.toml"
    recipe.write_text(
        f"""
        [data]
        source = {str(text)!r}
        [model]
        depth = 2
        width = 32
        [training]
        tokens = 1024
        batch_tokens = 256
        warmup_tokens = 0
        length = 32
        matmul = "onednn"
        [search]
        population = 3
        elites = 1
        generations = 1
        """
    )
    command = ("evolve", recipe, "--run", tmp_path / "run", "--workers", "1", calibrate)
    assert refused(star(*command))
    recipe.write_text(recipe.read_text().replace('"onednn"', '"default"'))
    assert star("evolve", recipe, "--run", tmp_path / "run", "--workers", "1", "--no-calibrate").status == 0


def test_a_library_that_there_is_not_is_told(star, text: Path, tmp_path: Path) -> None:
    answer = star("train", "11111", "--data", text, "--out", tmp_path / "one", *NEW, "--matmul", "mkl")
    assert answer.status == 2
    assert "training.matmul" in answer.err
    assert "'default' or 'onednn'" in answer.err
