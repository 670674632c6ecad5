"""`star --help` is quick because it imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMANDS = (
    *("evolve", "compare", "report", "inspect", "analyse", "lineage", "scale", "train", "generate", "ablate"),
    "doctor",
)
HEAVY = ("torch", "numpy", "plotly", "tokenizers", "star.synthesis", "star.lm")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS), ["unknown"]], ids=" ".join
)
def test_commands_that_only_print_import_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        f"sys.argv = ['star', *{arguments!r}]\n"
        "from star.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_help_lists_every_command_and_every_option_of_a_search(star) -> None:
    commands = star("--help").out
    assert all(f"  {name}  " in commands for name in COMMANDS)
    for command in ("evolve", "ablate"):
        options = star(command, "--help").out
        for name in (
            *("data", "run", "objectives", "population", "generations", "depth", "width", "length", "tokens", "seed"),
            *("workers", "tokenizer", "pool", "extend", "batch-tokens"),
        ):
            assert f"--{name} " in options


def test_help_names_what_there_is(star) -> None:
    from star.genome import PRESETS, Extension
    from star.synthesis import Ablation, Recipe

    def words(command: str) -> str:
        return " ".join(star(command, "--help").out.split())

    assert ", ".join([*Recipe.names(), "or a TOML file"]) in words("evolve")
    assert all(name in words("ablate") for name in Ablation.names())
    for command in ("inspect", "scale", "train"):
        assert f"({', '.join(PRESETS)})" in words(command)
    for command in ("evolve", "ablate", "inspect", "scale", "train"):
        assert ", ".join(Extension) in words(command)


def test_help_fits_eighty_columns(star) -> None:
    for command in ([], *([name] for name in COMMANDS)):
        answer = star(*command, "--help")
        assert answer.status == 0
        assert max(map(len, answer.out.splitlines())) <= 80


def test_version_is_that_of_the_distribution(star) -> None:
    from importlib.metadata import version

    assert star("--version").out.split() == ["star", version("star-synthesis")]
