"""The process that workers are forked from. Importing this module imports next to nothing."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, get_context, resource_tracker
from types import ModuleType

PRELOAD = "star.synthesis.preload"


def start_server() -> None:
    """Start the server that workers are forked from, unless it runs; call it early, it takes seconds to import torch.

    A command that may train calls it before its own imports, which then take place at the same time. The server ends
    with this process, also in the middle of its imports: who started it in vain waits for nothing.

    It and its workers inherit a blocked SIGINT: Ctrl-C reaches the coordinator alone, which then ends them.
    """
    get_context("forkserver").set_forkserver_preload([PRELOAD])
    resource_tracker.ensure_running()  # first, because it unblocks the signal
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with without_main():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    atexit.unregister(_end_server)
    atexit.register(_end_server, os.getpid(), forkserver._forkserver._forkserver_pid)  # type: ignore[attr-defined]


def _end_server(owner: int, server: int | None) -> None:
    if server is not None and os.getpid() == owner:  # not in a fork of this process
        with suppress(ProcessLookupError):
            os.kill(server, signal.SIGKILL)


@contextmanager
def without_main() -> Iterator[None]:
    """Keep multiprocessing from importing the user's script again in every worker, which needs nothing from it.

    It would cost time, and a script without ``if __name__ == "__main__"`` would start its search again in each worker.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
