"""The entry point `star`: the commands, and how mistakes end (one sentence on stderr, status 2)."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from star.cli import ablate, analyse, compare, doctor, evolve, generate, inspect, lineage, report, scale, train
from star.errors import StarError

USAGE_STATUS = 2

# Plain markup: errors stay one sentence that a script can read, and --help needs no import of Rich.
app = typer.Typer(
    name="star",
    help="Evolve language-model architectures on your text, then compare, inspect, train and sample them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Begin with: star evolve demo --run runs/demo, then star compare runs/demo and star report runs/demo.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"star {version('star-synthesis')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options of `star` itself."""


for command, module in (
    ("evolve", evolve),
    ("compare", compare),
    ("report", report),
    ("inspect", inspect),
    ("analyse", analyse),
    ("lineage", lineage),
    ("scale", scale),
    ("train", train),
    ("generate", generate),
    ("ablate", ablate),
    ("doctor", doctor),
):
    app.command(command, no_args_is_help=command not in ("evolve", "doctor"))(module.run)


def main() -> None:
    """Run the command line of this process. A StarError is the user's to mend; anything else keeps its traceback."""
    try:
        app()
    except StarError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(USAGE_STATUS)
