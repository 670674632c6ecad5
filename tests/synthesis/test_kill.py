"""kill -9 of a searching process at random moments: nothing stored is lost, nothing is trained twice, same end."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from star.errors import StarError
from star.synthesis import Run, RunState, Status

KILLS = 12
COORDINATOR = Path(__file__).parent / "coordinator.py"


def start(text: Path, run: Path, log: Path, workers: int, *mode: str) -> subprocess.Popen[bytes]:
    log.touch()
    environment = {**os.environ, "FAKE_LOG": str(log)}
    return subprocess.Popen([sys.executable, COORDINATOR, text, run, str(workers), *mode], env=environment)


def finish(text: Path, run: Path, log: Path, workers: int, *mode: str) -> None:
    assert start(text, run, log, workers, *mode).wait(120) == 0


def final(run: Path) -> list[Any]:
    """All that the search says: every candidate, every population."""
    with Run.open(run) as found:
        assert found.state is RunState.FINISHED
        populations = [[c.name for c in found.population(g)] for g in range(1, found.generations + 1)]
        return [[replace(candidate, seconds=None) for candidate in found.candidates], populations]


def settled(run: Path) -> set[str]:
    """Trials whose result is stored, as they are logged; none while there is no run yet."""
    try:
        with Run.open(run) as found:
            ended = {candidate.name for candidate in found.candidates if candidate.status is not Status.PENDING}
            rungs = {f"{each.name}@{rung.tokens}" for each in found.candidates for rung in each.rungs}
            return ended | rungs | {f"{name}@{found.recipe.training.tokens}" for name in ended}
    except StarError:
        return set()


def lived(coordinator: subprocess.Popen[bytes], log: Path, read: int, rng: random.Random) -> bool:
    """Wait for a random moment, counted in trials so that slow machines get there too; False if it ended before."""
    trials = rng.choice([0, 1, 2, 3, 5, 8])
    while coordinator.poll() is None and len(log.read_text().split()) < read + trials:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.15) if trials else rng.uniform(0, 1))
    return coordinator.poll() is None


@pytest.mark.parametrize(
    "mode",
    [(), pytest.param(("halving",), marks=pytest.mark.slow), pytest.param(("inheritance",), marks=pytest.mark.slow)],
    ids=["whole budgets", "halving", "inheritance"],
)
def test_ten_kills_and_more_end_like_an_undisturbed_search(text: Path, tmp_path: Path, mode: tuple[str, ...]) -> None:
    finish(text, tmp_path / "whole", tmp_path / "whole.log", 2, *mode)
    expected = final(tmp_path / "whole")
    trained = (tmp_path / "whole.log").read_text().split()
    assert sorted(trained) == sorted(set(trained)), "undisturbed, nothing is trained twice"

    rng = random.Random(5)
    kills = rounds = in_between = 0
    while kills < KILLS:
        rounds += 1
        run, log = tmp_path / f"run{rounds}", tmp_path / f"log{rounds}"
        log.touch()
        status = None
        while status is None:
            before, read = settled(run), len(log.read_text().split())
            coordinator = start(text, run, log, rng.choice([1, 2, 3]), *mode)
            if kills < KILLS and lived(coordinator, log, read, rng):
                coordinator.kill()
                kills += 1
            status = coordinator.wait(120)
            assert before.isdisjoint(log.read_text().split()[read:]), "a stored result is never computed again"
            if status < 0:
                in_between += 0 < len(settled(run)) < len(trained)
                status = None
        assert status == 0
        assert final(run) == expected
        assert not (run / "checkpoints").exists()
        if mode == ("inheritance",):
            with Run.open(run) as found:
                alive = {each.name for each in found.last_population if each.status is Status.DONE}
            assert {path.name for path in (run / "weights").iterdir()} == {f"{name}.safetensors" for name in alive}
    assert in_between >= 3, "some kills fell into the middle of the search"


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_killed_search_in_steady_state_goes_on(text: Path, tmp_path: Path, workers: int) -> None:
    """One worker ends like an undisturbed search. Of several, what they had told by the kill decides the rest: the run
    is one that a search could have made, with everything in it once."""
    finish(text, tmp_path / "whole", tmp_path / "whole.log", 1, "steady-state")
    expected = final(tmp_path / "whole")
    rng = random.Random(7)
    kills = in_between = 0
    run, log = tmp_path / "run0", tmp_path / "log0"
    while kills < 4 or not in_between:
        run, log = tmp_path / f"run{kills}", tmp_path / f"log{kills}"
        log.touch()
        status = None
        while status is None:
            before, read = settled(run), len(log.read_text().split())
            coordinator = start(text, run, log, workers, "steady-state")
            if kills < 4 and lived(coordinator, log, read, rng):
                coordinator.kill()
                kills += 1
            status = coordinator.wait(120)
            assert before.isdisjoint(log.read_text().split()[read:]), "a stored result is never computed again"
            if status < 0:
                in_between += 0 < len(settled(run)) < 26
                status = None
        assert status == 0
        candidates, populations = final(run)
        if workers == 1:
            assert [candidates, populations] == expected
        assert len({candidate.digest for candidate in candidates}) == len(candidates) == 6 + 5 * 4
        assert sorted(candidate.ended for candidate in candidates) == list(range(1, 27))
        assert len(populations) == 6
        finish(text, run, log, 2, "steady-state")  # asks and tells everything again, and finds the same
        assert final(run) == [candidates, populations]


def test_workers_of_a_killed_search_do_not_linger(text: Path, tmp_path: Path) -> None:
    coordinator = start(text, tmp_path / "run", tmp_path / "log", workers=2)
    deadline = time.monotonic() + 60
    while not (tmp_path / "log").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    family = descendants(coordinator.pid)
    assert family, "the forkserver and its workers"
    coordinator.kill()
    coordinator.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in family) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]
    with Run.open(tmp_path / "run") as run:
        assert run.state is RunState.INTERRUPTED, "the lock went with the process"


def descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(below for child in children for below in descendants(child))]


if not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists():
    test_workers_of_a_killed_search_do_not_linger = pytest.mark.skip(reason="needs Linux's /proc")(
        test_workers_of_a_killed_search_do_not_linger
    )
