"""Where the time of a search goes, from its events: what ``search.py overhead`` and ``asynchronous`` measure with.

``search_process.py`` makes one search with it, from the first moment of a process to its last, imports included.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from star.synthesis import Recipe, evolve
from star.synthesis.events import (
    CandidateAtRung,
    CandidateFinished,
    CandidateLeft,
    CandidateLost,
    CandidateStarted,
    CandidateStep,
    CorpusReady,
    Event,
    GenerationFinished,
    GenerationStarted,
    SearchStarted,
)

ENDS = (CandidateFinished, CandidateAtRung, CandidateLeft, CandidateLost)


@dataclass(frozen=True)
class Phase:
    """A part of a search's time. ``share`` is of the wall time, or of the workers' time where ``of_workers``."""

    name: str
    seconds: float
    share: float
    of_workers: bool = False


class Timeline:
    """A listener that keeps the time of every event."""

    def __init__(self) -> None:
        self.events: list[tuple[float, Event]] = []

    def __call__(self, event: Event) -> None:
        self.events.append((time.monotonic(), event))


def phases(events: Sequence[tuple[float, Event]], *, began: float, ended: float, workers: int) -> list[Phase]:
    """The wall time of a search from ``began`` to ``ended``, divided.

    While no trial runs, the time belongs to what the search does then: start-up, text, workers, generations, end. While
    some run, a worker is free either because nothing is left to train before the barrier, or though something waits.
    """
    wall = ended - began
    nothing_runs = dict.fromkeys(("start-up", "text", "first worker", "between trials", "end"), 0.0)
    busy = barrier = free = 0.0
    doing, running, waiting, last = "start-up", 0, 0, began
    finals = [index for index, (_, event) in enumerate(events) if isinstance(event, ENDS)]
    for index, (moment, event) in enumerate([*events, (ended, None)]):
        elapsed = moment - last
        last = moment
        if running == 0:
            nothing_runs[doing] += elapsed
        else:
            busy += running * elapsed
            idle = (workers - running) * elapsed
            barrier, free = (barrier, free + idle) if waiting > 0 else (barrier + idle, free)
        match event:
            case SearchStarted():
                doing = "text"
            case CorpusReady():
                doing = "first worker"
            case GenerationStarted(candidates=candidates):
                waiting = len(candidates)
            case CandidateStarted():
                running, waiting, doing = running + 1, waiting - 1, "between trials"
        if isinstance(event, ENDS):
            running -= 1
            if index == finals[-1]:
                doing = "end"
    found = [Phase(f"no trial runs: {name}", seconds, seconds / wall) for name, seconds in nothing_runs.items()]
    total = sum(nothing_runs.values())
    found.append(Phase("no trial runs, in all", total, total / wall))
    for name, seconds in (
        ("workers train", busy),
        ("workers are free though candidates wait", free),
        ("workers are free at a barrier", barrier),
    ):
        found.append(Phase(name, seconds, seconds / (wall * workers), of_workers=True))
    before, training, after = _inside_trials(events)
    for name, seconds in (("until the first step", before), ("in steps", training), ("after the last step", after)):
        found.append(Phase(f"in trials: {name}", seconds, seconds / (wall * workers), of_workers=True))
    found.append(Phase("wall time", wall, 1.0))
    return found


def _inside_trials(events: Sequence[tuple[float, Event]]) -> tuple[float, float, float]:
    """Seconds of all trials before the end of the first step, from there to the last, and after it."""
    started: dict[str, float] = {}
    steps: dict[str, tuple[float, float]] = {}
    before = training = after = 0.0
    for moment, event in events:
        match event:
            case CandidateStarted(candidate=candidate):
                started[candidate.name] = moment
                steps.pop(candidate.name, None)
            case CandidateStep(candidate=candidate):
                first, _ = steps.get(candidate.name, (moment, moment))
                steps[candidate.name] = first, moment
            case CandidateFinished(candidate=candidate) if candidate.name in steps:
                first, last = steps[candidate.name]
                before += first - started[candidate.name]
                training += last - first
                after += moment - last
    return before, training, after


class Wall:
    """A listener that keeps the wall time of a search at the end of each generation in a file, over interruptions.

    Time counts from the first trial of each process: imports and reading the text belong to no condition.
    What a process did after its last finished candidate is lost when it is killed, and so is its time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        stored = json.loads(path.read_text()) if path.is_file() else {"seconds": 0.0, "generations": {}}
        self.generations: dict[str, float] = stored["generations"]
        self._before: float = stored["seconds"]
        self._began: float | None = None

    def __call__(self, event: Event) -> None:
        if self._began is None:
            if isinstance(event, CandidateStarted):
                self._began = time.monotonic()
            return
        seconds = round(self._before + time.monotonic() - self._began, 2)
        if isinstance(event, GenerationFinished):
            self.generations.setdefault(str(event.generation), seconds)
        if isinstance(event, (GenerationFinished, CandidateFinished)):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_suffix(".new")
            fresh.write_text(json.dumps({"seconds": seconds, "generations": self.generations}))
            fresh.replace(self._path)


def process_start() -> float:
    """When this process began, on the monotonic clock (Linux)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - since_boot


def timed(recipe: str, run: str, workers: str, out: str) -> None:
    """Make one search and write its phases, from the beginning of this process on, to ``out`` as JSON. ``workers`` 0
    are as many as fit."""
    began, timeline = process_start(), Timeline()
    evolve(Recipe.load(recipe), run=run, workers=int(workers) or None, listener=timeline).close()
    ended = time.monotonic()
    (used,) = (event.workers for _, event in timeline.events if isinstance(event, SearchStarted))
    found = phases(timeline.events, began=began, ended=ended, workers=used)
    Path(out).write_text(json.dumps([asdict(phase) for phase in found]))
