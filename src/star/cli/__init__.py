"""The command line. Importing it imports Typer and nothing heavier; a command imports what it needs."""

from star.cli.app import app, main

__all__ = ["app", "main"]
