"""The worker's side of a local trial: one process, one trial, one pipe."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from star.errors import StarError
from star.synthesis.trial import Outcome, Trial, TrialFailed, trial_function


@dataclass(frozen=True)
class Failure:
    """What a worker sends in place of an outcome; ``fault``: the cause does not lie in the candidate."""

    reason: str
    fault: bool = False


def work(pipe: Connection, trial: Trial, log: Path | None) -> None:
    """Run the trial and send step reports, then an ``Outcome`` or a ``Failure``.

    If the coordinator dies, its end of the pipe closes and this process exits at once, whatever it is doing.
    """
    _redirect_output(log)
    threading.Thread(target=_exit_with_coordinator, args=(pipe,), daemon=True).start()

    def send(message: object) -> None:
        try:
            pipe.send(message)
        except OSError:
            os._exit(1)

    answer: Outcome | Failure
    try:
        answer = trial_function(trial.function)(trial, send)
    except TrialFailed as failed:
        answer = Failure(str(failed))
    except StarError as error:
        answer = Failure(str(error), fault=True)
    except BaseException as error:
        summary = "".join(traceback.format_exception_only(error)).strip().splitlines()
        answer = Failure(summary[-1] if summary else type(error).__name__, fault=True)
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{trial.name} could not be trained\n{traceback.format_exc()}")
    send(answer)
    with suppress(OSError, ValueError):
        sys.stderr.flush()
        sys.stdout.flush()
    os._exit(0)  # nothing to tidy up; the usual exit would wait for threads


def _redirect_output(log: Path | None) -> None:
    """Send what torch and others print to the log: the terminal belongs to the coordinator's progress bars."""
    with suppress(OSError):
        target = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(target, 1)
        os.dup2(target, 2)
        os.close(target)


def _exit_with_coordinator(pipe: Connection) -> None:
    """The coordinator sends nothing, so the only thing that can be received is the end of the pipe."""
    with suppress(EOFError, OSError):
        pipe.recv_bytes()
    os._exit(1)
