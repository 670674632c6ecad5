"""`star --help` is quick because it imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "plotly", "tokenizers", "star.synthesis", "star.lm")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["evolve", "--help"], ["train", "--help"], ["doctor", "--help"], ["unknown"]],
    ids=" ".join,
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
    assert all(
        f"  {name}  " in commands for name in ("evolve", "inspect", "train", "generate", "compare", "report", "doctor")
    )
    options = star("evolve", "--help").out
    for name in (
        *("data", "run", "objectives", "population", "generations", "depth", "width", "length", "tokens", "seed"),
        *("workers", "tokenizer"),
    ):
        assert f"--{name} " in options


def test_help_fits_eighty_columns(star) -> None:
    for command in ([], ["evolve"], ["inspect"], ["train"], ["generate"], ["compare"], ["report"], ["doctor"]):
        answer = star(*command, "--help")
        assert answer.status == 0
        assert max(map(len, answer.out.splitlines())) <= 80


def test_version_is_that_of_the_distribution(star) -> None:
    from importlib.metadata import version

    assert star("--version").out.split() == ["star", version("star-synthesis")]
