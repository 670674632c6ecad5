"""Trials on this machine: one process each, forked from a server that has imported torch already.

A process pool would be simpler, but the death of one worker breaks it or leaves its task unresolved for ever. Here a
killed worker costs its own trial only, which is tried once more.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType

from star.errors import StarError
from star.synthesis.executor import TrialDone, TrialError, TrialEvent, TrialLost, TrialStarted, TrialStep
from star.synthesis.server import start_server, without_main
from star.synthesis.trial import Outcome, Trial
from star.synthesis.worker import Failure, work

ATTEMPTS = 2
EXIT_SECONDS = 10.0  # a worker that has answered, or was killed, is given this long to be gone


def require_limits(workers: int | None, timeout: float | None) -> None:
    """StarError for numbers of workers and seconds that leave nothing to work with."""
    if workers is not None and workers < 1:
        raise StarError(f"{workers} workers can do nothing; give at least 1")
    if timeout is not None and timeout <= 0:
        raise StarError(f"a time-out of {timeout} seconds leaves no time; give a positive number")


@dataclass
class _Slot:
    """A place for one running worker."""

    device: str
    trial: Trial
    attempt: int
    process: BaseProcess
    pipe: Connection
    started: float


class LocalExecutor:
    """Up to ``workers`` trials at once, spread evenly over ``devices``.

    A trial that runs longer than ``timeout`` seconds is killed and ends as a fault. What workers print goes to ``log``.
    Use it in a ``with`` statement, or call ``close``.
    """

    def __init__(
        self,
        workers: int,
        *,
        devices: Sequence[str] = ("cpu",),
        timeout: float | None = None,
        log: Path | None = None,
    ) -> None:
        require_limits(workers, timeout)
        self.workers = workers
        self._timeout = timeout
        self._log = log.resolve() if log else None
        self._idle = deque(devices[place % len(devices)] for place in range(workers))
        self._queue: deque[tuple[Trial, int]] = deque()
        self._slots: dict[Connection, _Slot] = {}
        self._context = get_context("forkserver")
        start_server()

    def submit(self, trial: Trial) -> None:
        """Queue a trial; the first submitted starts first."""
        self._queue.append((trial, 1))

    def events(self) -> Iterator[TrialEvent]:
        """What happens, until no trial is queued or running; more may be submitted while this is read."""
        while self._queue or self._slots:
            while self._queue and self._idle:
                yield self._start(*self._queue.popleft())
            for pipe in wait(list(self._slots), self._patience()):
                assert isinstance(pipe, Connection)
                yield from self._read(self._slots[pipe])
            for slot in [slot for slot in self._slots.values() if self._overdue(slot)]:
                reason = f"the trial ran longer than the time-out of {self._timeout:g} seconds"
                yield TrialError(slot.trial, reason, self._release(slot, kill=True), fault=True)

    def close(self) -> None:
        """Kill what is running and forget what is queued."""
        self._queue.clear()
        for slot in list(self._slots.values()):
            self._release(slot, kill=True)

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, trial: Trial, attempt: int) -> TrialEvent:
        device = self._idle.popleft()
        ours, theirs = self._context.Pipe(duplex=True)
        placed = replace(trial, device=device)
        # A daemon, or the interpreter would wait for it at its exit, should nobody call `close`.
        process = self._context.Process(target=work, args=(theirs, placed, self._log), daemon=True)
        try:
            with without_main():
                process.start()
        except BaseException as error:
            self._idle.appendleft(device)
            ours.close()
            if isinstance(error, (OSError, EOFError)):
                return TrialError(trial, f"no worker could be started ({error})", 0.0, fault=True)
            raise
        finally:
            theirs.close()  # the worker's copy is then the only one, so its death ends the pipe
        self._slots[ours] = _Slot(device, trial, attempt, process, ours, time.monotonic())
        return TrialStarted(trial, attempt)

    def _read(self, slot: _Slot) -> Iterator[TrialEvent]:
        """Everything that has come through the slot's pipe."""
        while slot.pipe.poll():
            try:
                message = slot.pipe.recv()
            except (EOFError, OSError):
                yield self._died(slot)
                return
            if isinstance(message, Outcome):
                yield TrialDone(slot.trial, message, self._release(slot))
                return
            if isinstance(message, Failure):
                yield TrialError(slot.trial, message.reason, self._release(slot), message.fault)
                return
            yield TrialStep(slot.trial, message)

    def _died(self, slot: _Slot) -> TrialEvent:
        seconds = self._release(slot)
        reason = f"the worker {_cause_of_death(slot.process.exitcode)}"
        if slot.attempt == ATTEMPTS:
            return TrialError(slot.trial, f"{reason}, {ATTEMPTS} times", seconds, fault=True)
        self._queue.appendleft((slot.trial, slot.attempt + 1))
        return TrialLost(slot.trial, reason)

    def _release(self, slot: _Slot, *, kill: bool = False) -> float:
        """Make sure that the worker is gone and give its place back; returns the seconds that it took."""
        seconds = time.monotonic() - slot.started
        if kill:
            slot.process.kill()
        slot.process.join(EXIT_SECONDS)
        if slot.process.is_alive():
            slot.process.kill()
            slot.process.join(EXIT_SECONDS)
        slot.pipe.close()
        del self._slots[slot.pipe]
        self._idle.append(slot.device)
        return seconds

    def _patience(self) -> float | None:
        """Seconds until the next worker is overdue."""
        if self._timeout is None or not self._slots:
            return None
        first = min(slot.started for slot in self._slots.values())
        return max(0.0, first + self._timeout - time.monotonic())

    def _overdue(self, slot: _Slot) -> bool:
        return self._timeout is not None and time.monotonic() >= slot.started + self._timeout


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is None:
        return "stopped answering"
    if exit_code < 0:
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-exit_code).name}"
    return f"exited with status {exit_code}"
