"""`star report`: a run as one HTML file, or its front as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from star.cli.console import say

REPORT_FILE = "report.html"


def run(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory; it may still be running.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write; default RUN/report.html. A name in .svg gets the picture of the front only."
        ),
    ] = None,
) -> None:
    """Write one self-contained HTML file: front, generations, training curves, drawings of the backbones.

    Run `star compare` before it to have the baselines in it.
    """
    from star.report import write_picture, write_report
    from star.synthesis import Run

    path = out or run / REPORT_FILE
    with Run.open(run) as opened:
        if path.suffix.lower() == ".svg":
            write_picture(opened, path)
        else:
            write_report(opened, path)
    say(str(path))
