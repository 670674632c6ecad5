"""`star` called in this process, and one real search of a few seconds that the tests look at."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from small_runs import Answer, Star, evolve_small

from star.cli import main
from star.machine import cache_folder


@pytest.fixture
def star(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Star:
    """Runs a command line and gives back what a shell would see."""

    def call(*arguments: str | Path) -> Answer:
        monkeypatch.setattr(sys, "argv", ["star", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "80")
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return Answer(status, captured.out, captured.err)

    return call


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or fills the user's cache of corpora; that of kernels is shared, as they depend on no data."""
    compiled = cache_folder() / "kernels"
    compiled.mkdir(parents=True, exist_ok=True)
    cache = tmp_path_factory.mktemp("cache")
    (cache / "kernels").symlink_to(compiled)
    patch = pytest.MonkeyPatch()
    patch.setenv("STAR_CACHE", str(cache))


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of forty small documents."""
    folder = tmp_path_factory.mktemp("text")
    for number in range(40):
        words = " ".join(f"the {number * step % 97} foxes and {step} hens" for step in range(1, 60))
        (folder / f"{number:02}.txt").write_text(f"Document {number}: {words}\n")
    return folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A finished search over three objectives, made once; the tests must not change it."""
    path = tmp_path_factory.mktemp("runs") / "small"
    evolve_small(path, text)
    return path
