"""What the README and the Makefile promise can be done."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.main import get_command

from star.cli import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GPU = ("nvidia", "cuda")
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for line in SHELL.splitlines() if line.startswith("star ")]


def test_the_readme_shows_both_ways_of_use() -> None:
    assert len(PYTHON) == 2
    assert {shlex.split(line)[1] for line in COMMANDS} == {
        "evolve",
        "compare",
        "report",
        "inspect",
        "analyse",
        "lineage",
        "scale",
        "train",
        "generate",
        "ablate",
    }


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_readme_is_understood(line: str) -> None:
    _, name, *arguments = shlex.split(line, comments=True)
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    context = command.make_context(name, arguments)
    assert context.params


def test_the_model_of_the_readme_gives_logits() -> None:
    names: dict = {}
    exec(PYTHON[0], names)
    assert names["logits"].shape == (2, 64, 257)


def test_the_search_of_the_readme_runs(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from star.synthesis import Recipe

    demo = Recipe.load("demo").override(
        {"model.depth": 3, "model.width": 32, "training.tokens": 4096, "search.population": 3, "training.length": 32}
    )
    monkeypatch.setattr(Recipe, "load", lambda _: demo)
    monkeypatch.chdir(tmp_path)
    book = "\n\n".join(path.read_text() for path in sorted(text.iterdir()))
    (tmp_path / "book.txt").write_text(book)
    exec(PYTHON[1].replace('"search.generations": 4', '"search.generations": 1'), {})
    assert "perplexity" in capsys.readouterr().out


def test_pictures_and_pages_of_the_readme_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert "docs/front.svg" in links
    assert all((ROOT / link).is_file() for link in links)
    ElementTree.parse(ROOT / "docs" / "front.svg")


def test_the_lock_is_complete_and_pinned() -> None:
    from importlib.metadata import distribution

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+(; sys_platform == 'linux')?", line) for line in lines)
    locked = {canonicalize_name(line.split("==")[0]) for line in lines}
    assert not any(name.startswith(GPU) for name in locked)
    needed, seen = [("star-synthesis", frozenset({"dev"}))], set()
    while needed:
        name, extras = needed.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        if name.startswith(GPU):  # torch brings its own where it is built for CUDA
            continue
        assert name in locked | {"star-synthesis"}, f"{name} is missing from requirements.lock"
        for requirement in map(Requirement, distribution(name).requires or []):
            markers = [{"extra": extra} for extra in ("", *extras)]
            if requirement.marker is None or any(map(requirement.marker.evaluate, markers)):
                needed.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
