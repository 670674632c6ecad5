"""One search, from a recipe in TOML, and where its time went, as JSON: ``search_process.py RECIPE RUN WORKERS OUT``.

As ``star evolve`` does, it first of all starts the process that workers are forked from, which imports torch while
everything else is imported here. WORKERS 0 are as many as fit.
"""

from __future__ import annotations

import sys

from star.synthesis.server import start_server


def main(recipe: str, run: str, workers: str, out: str) -> None:
    start_server()
    from search_timing import timed

    timed(recipe, run, workers, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
