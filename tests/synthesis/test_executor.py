"""Local workers as real processes: results, failures, deaths, time-outs, and a coordinator that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from star.errors import StarError
from star.genome import OptionPool
from star.synthesis import Recipe
from star.synthesis.executor import TrialDone, TrialError, TrialEvent, TrialLost, TrialStarted, TrialStep
from star.synthesis.local import LocalExecutor
from star.synthesis.trial import Trial

HERE = Path(__file__).parent
Make = Callable[..., Trial]


@pytest.fixture
def make(recipe: Recipe, tmp_path: Path) -> Make:
    def trial(name: str, function: str) -> Trial:
        return Trial(
            name=name,
            genome="11111",
            pool=OptionPool.paper(),
            recipe=recipe,
            corpus=tmp_path,
            seed=1,
            data_seed=2,
            function=f"synthesis_fakes:{function}",
        )

    return trial


def run(
    trials: list[Trial], workers: int = 2, timeout: float | None = None, log: Path | None = None
) -> list[TrialEvent]:
    with LocalExecutor(workers, timeout=timeout, log=log) as executor:
        for trial in trials:
            executor.submit(trial)
        return list(executor.events())


def ends(events: list[TrialEvent]) -> dict[str, TrialDone | TrialError]:
    found = [event for event in events if isinstance(event, (TrialDone, TrialError))]
    assert len({event.trial.name for event in found}) == len(found), "a trial ends once"
    return {event.trial.name: event for event in found}


def test_every_trial_ends_and_slots_are_kept_full(make: Make) -> None:
    events = run([make(str(k), "uneven_score") for k in range(7)], workers=3)
    assert len(ends(events)) == 7
    running = most = 0
    for event in events:
        running += isinstance(event, TrialStarted) - isinstance(event, (TrialDone, TrialError))
        most = max(most, running)
    assert (most, running) == (3, 0)
    assert [event.trial.name for event in events if isinstance(event, TrialStarted)] == list("0123456")


def test_steps_come_before_the_result(make: Make) -> None:
    kinds = [type(event) for event in run([make("1", "score")])]
    assert kinds[:2] == [TrialStarted, TrialStep]
    assert len(kinds) == 3


def test_more_can_be_submitted_while_events_are_read(make: Make) -> None:
    with LocalExecutor(2) as executor:
        executor.submit(make("1", "score"))
        names = []
        for event in executor.events():
            if isinstance(event, (TrialDone, TrialError)):
                names.append(event.trial.name)
                if len(names) < 4:
                    executor.submit(make(str(len(names) + 1), "score"))
    assert names == ["1", "2", "3", "4"]


def test_an_exception_is_told_with_its_traceback_and_harms_nobody(make: Make, tmp_path: Path) -> None:
    log = tmp_path / "workers.log"
    found = ends(run([make("1", "bug"), make("2", "uneven_score"), make("3", "nowhere")], log=log))
    assert isinstance(found["1"], TrialError)
    assert "in 1" in found["1"].reason
    assert "RuntimeError: a bug" in log.read_text()
    assert found["1"].fault
    assert not getattr(found["2"], "fault", False)
    assert isinstance(found["3"], TrialError)
    assert "nowhere" in found["3"].reason


def test_a_failed_candidate_needs_no_traceback(make: Make, tmp_path: Path) -> None:
    found = ends(run([make("2", "diverge")], log=tmp_path / "workers.log"))["2"]
    assert (tmp_path / "workers.log").read_text() == ""
    assert isinstance(found, TrialError)
    assert (found.reason, found.fault) == ("diverged: the loss is nan at step 3", False)


def test_a_killed_worker_costs_its_own_trial_one_try(make: Make) -> None:
    events = run([make("1", "die_once"), make("2", "die_once"), make("3", "die_once")])
    lost = [event for event in events if isinstance(event, TrialLost)]
    assert [(event.trial.name, event.reason) for event in lost] == [("1", "the worker was killed by SIGKILL")]
    undisturbed = ends(run([make("1", "score")]))["1"]
    answer = ends(events)["1"]
    assert type(answer) is type(undisturbed)
    assert set(ends(events)) == {"1", "2", "3"}


def test_a_worker_killed_again_ends_its_trial_as_a_fault(make: Make) -> None:
    found = ends(run([make("1", "die"), make("2", "die")]))
    assert isinstance(found["1"], TrialError)
    assert (found["1"].reason, found["1"].fault) == ("the worker was killed by SIGKILL, 2 times", True)
    assert not getattr(found["2"], "reason", "").startswith("the worker")


def test_a_worker_that_leaves_without_an_answer_is_told_with_its_status(make: Make) -> None:
    found = ends(run([make("1", "leave")]))["1"]
    assert isinstance(found, TrialError)
    assert found.reason == "the worker exited with status 7, 2 times"


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 30
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def test_a_timeout_kills(make: Make) -> None:
    events = run([make("1", "stop")], timeout=1)
    found = ends(events)["1"]
    assert isinstance(found, TrialError)
    assert "time-out of 1 seconds" in found.reason
    assert found.fault
    pids = [event.report.pid for event in events if isinstance(event, TrialStep)]  # type: ignore[attr-defined]
    assert all(wait_until_gone(pid) for pid in pids)


def test_closing_kills_what_runs(make: Make) -> None:
    executor = LocalExecutor(2)
    executor.submit(make("1", "stop"))
    pid = next(event.report.pid for event in executor.events() if isinstance(event, TrialStep))  # type: ignore[attr-defined]
    assert alive(pid)
    executor.close()
    executor.close()
    assert wait_until_gone(pid)
    assert list(executor.events()) == []


COORDINATOR = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from star.genome import OptionPool
from star.synthesis import Recipe
from star.synthesis import local, server
from star.synthesis.executor import TrialStep
from star.synthesis.trial import Trial
print("once", flush=True)
server.PRELOAD = "synthesis_fakes"
executor = local.LocalExecutor(1)
executor.submit(Trial("1", "11111", OptionPool.paper(), Recipe.load("demo"), Path("."), 1, 2,
                      function="synthesis_fakes:stop"))
for event in executor.events():
    if isinstance(event, TrialStep):
        print(event.report.pid, flush=True)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_coordinator(end: signal.Signals, tmp_path: Path) -> None:
    # The script has no `if __name__ == "__main__"`: that workers start at all shows that they do not import it.
    script = tmp_path / "script.py"
    script.write_text(COORDINATOR.format(here=str(HERE)))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as coordinator:
        assert coordinator.stdout is not None
        assert coordinator.stdout.readline() == b"once\n"
        worker = int(coordinator.stdout.readline())
        assert alive(worker)
        coordinator.send_signal(end)
        try:
            coordinator.wait(30)
        finally:
            coordinator.kill()
    assert wait_until_gone(worker)


def test_output_of_workers_goes_to_the_log(make: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run([make("1", "bug")], log=tmp_path / "workers.log")
    assert (tmp_path / "workers.log").exists()
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(StarError, match="0 workers"):
        LocalExecutor(0)
    with pytest.raises(StarError, match="time-out"):
        LocalExecutor(1, timeout=0)


def test_the_device_of_a_slot_reaches_the_trial(make: Make) -> None:
    with LocalExecutor(2, devices=["cpu", "meta"]) as executor:
        for name in "12":
            executor.submit(make(name, "tell_device"))
        assert sorted(
            event.outcome.metrics["is_cpu"] for event in executor.events() if isinstance(event, TrialDone)
        ) == [0.0, 1.0]


def test_cuda_and_threads_are_untouched_by_the_preload() -> None:
    check = (
        "import star.synthesis.preload, torch, threading; assert not torch.cuda.is_initialized(); "
        "assert threading.active_count() == 1"
    )
    subprocess.run([sys.executable, "-c", check], check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})


def test_a_trial_imports_next_to_nothing_that_is_not_preloaded() -> None:
    check = """
import sys
import star.synthesis.preload

before = set(sys.modules)

import torch
from star.evaluation import perplexity
from star.genome import OptionPool, random_genome
from star.lm import LanguageModel, analyse
from star.training.optimizer import AdamW, parameter_groups
from random import Random

pool = OptionPool.full()
for seed in range(16):
    genome = random_genome(pool, 8, Random(seed))
    analyse(genome, pool, width=32, length=64)
    model = LanguageModel.from_genome(genome, pool=pool, width=32, vocab_size=64, length=64)
    tokens = torch.randint(64, (2, 65))
    model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    AdamW(parameter_groups(model, 0.1), lr=1e-3).step()
    perplexity(model, tokens.flatten().numpy(), length=64, tokens=128)
late = sorted(set(sys.modules) - before)
late = [name for name in late if name.partition(".")[0] in {"torch", "sympy", "numpy", "star"}]
assert set(late) <= {'torch.utils._device'}, late  # of counting, which the coordinator does
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for a process in /proc")
def test_the_server_ends_with_the_process_that_it_was_started_for() -> None:
    script = (
        "from multiprocessing import forkserver; from star.synthesis.server import start_server; start_server(); "
        "print(forkserver._forkserver._forkserver_pid)"
    )
    answer = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    state = Path("/proc", answer.stdout.strip(), "stat")  # it would import torch for seconds yet
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"
