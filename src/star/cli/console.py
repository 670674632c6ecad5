"""How commands write: tables and sentences on stdout, progress and remarks on stderr; no control codes into pipes."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

INTERRUPTED_STATUS = 130  # 128 + SIGINT, as shells have it
NOTHING = "–"


def stdout() -> Console:
    """For results. Markup is off: a genome or a path is text, whatever brackets it has."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False)


def stderr() -> Console:
    """For progress and remarks, so that results can be piped."""
    from rich.console import Console

    return Console(stderr=True, markup=False, emoji=False, highlight=False)


def say(text: str, *, err: bool = False) -> None:
    """One line as it is, not wrapped."""
    typer.echo(text, err=err)


def leave(status: int) -> NoReturn:
    """End the command, and with it this process where replicas still compute, which Python would wait for."""
    if any(thread.name.startswith("replica") for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise typer.Exit(status)


def print_json(data: Any) -> None:
    """`data` as JSON with sorted keys, so that equal data is equal text."""
    typer.echo(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """A table that fits the terminal (80 columns in a pipe).

    A column whose name begins with `>` is right-aligned; one whose name begins with `<` may be folded.
    """
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False
    )
    for name in columns:
        if name.startswith(">"):
            table.add_column(name[1:], justify="right", no_wrap=True)
        elif name.startswith("<"):
            table.add_column(name[1:], overflow="fold", ratio=1)
        else:
            table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    _print_without_trailing_blanks(table)


def _print_without_trailing_blanks(renderable: RenderableType) -> None:
    console = stdout()
    if console.is_terminal:
        console.print(renderable)
        return
    with console.capture() as capture:
        console.print(renderable)
    for line in capture.get().splitlines():
        typer.echo(line.rstrip())
