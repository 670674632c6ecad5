"""Libraries are compiled once for all processes, and nothing that goes wrong with them stops a computation."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from kernel_marks import NEEDS_COMPILER

from star.errors import StarError
from star.liv.kernels import native
from star.liv.kernels.choice import Implementation, Kernel, Native, choice

pytestmark = NEEDS_COMPILER
PROCESSES = 6


class Number(ctypes.Structure):
    _fields_ = (("value", ctypes.c_int64),)


@pytest.fixture(autouse=True)
def small_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One function to compile, an empty cache, and a compiler that writes down every file it compiles."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "vector.h").write_text("#include <cstdint>\n")
    (sources / "double.cpp").write_text(
        '#include "vector.h"\nextern "C" int64_t twice(const int64_t *number) { return 2 * *number; }\n'
    )
    real = native.compiler()
    assert real is not None
    recording = tmp_path / "recording"
    recording.write_text(
        f'#!/bin/sh\ncase "$*" in *-shared*) echo "$*" >> {tmp_path}/compiled;; esac\n'
        f'sleep 0.2\nexec {" ".join(real.command)} "$@"\n'
    )
    recording.chmod(0o755)
    monkeypatch.setattr(native, "SOURCES", sources)
    monkeypatch.setenv("CXX", str(recording))
    monkeypatch.setenv("STAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    native.forget()
    yield
    monkeypatch.undo()
    native.forget()


def compiled(tmp_path: Path) -> int:
    record = tmp_path / "compiled"
    return len(record.read_text().splitlines()) if record.exists() else 0


def twice_21(library: native.Library) -> int:
    return library.number("twice", Number(21))


def _load(pipe: Connection) -> None:
    pipe.send(twice_21(native.library("double.cpp")))


def test_concurrent_processes_compile_once_and_all_load(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ends = [context.Pipe(duplex=False) for _ in range(PROCESSES)]
    processes = [context.Process(target=_load, args=(theirs,)) for _, theirs in ends]
    for process in processes:
        process.start()
    assert [ours.recv() if ours.poll(60) else None for ours, _ in ends] == [42] * PROCESSES
    for process in processes:
        process.join(10)
    assert compiled(tmp_path) == 1


def test_several_files_are_compiled_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each compiler waits for the other to begin."""
    for name in ("here", "there"):
        (native.SOURCES / f"{name}.cpp").write_text((native.SOURCES / "double.cpp").read_text())
    waiting = tmp_path / "waiting"
    waiting.write_text(
        f'#!/bin/sh\ncase "$*" in *-shared*) touch "{tmp_path}/began-$$"; tries=0\n'
        f"while [ $(ls {tmp_path}/began-* | wc -l) -lt 2 ]; do\n"
        "tries=$((tries + 1)); [ $tries -lt 100 ] || exit 1; sleep 0.1; done;; esac\n"
        f'exec {os.environ["CXX"]} "$@"\n'
    )
    waiting.chmod(0o755)
    monkeypatch.setenv("CXX", str(waiting))
    monkeypatch.setattr(native, "usable_cores", lambda: 2)
    native.compiler.cache_clear()
    native.load(["here.cpp", "there.cpp"])
    assert [twice_21(native.library(f"{name}.cpp")) for name in ("here", "there")] == [42, 42]
    assert compiled(tmp_path) == 2


@pytest.mark.parametrize(
    "message", ["Killed signal terminated program cc1plus", "ld terminated with signal 9 [Killed]"]
)
def test_a_compiler_whose_part_is_killed_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    real = os.environ["CXX"]
    killed = tmp_path / "killed"
    killed.write_text(
        f'#!/bin/sh\ncase "$*" in *-shared*) echo "fatal error: {message}" >&2; exit 1;; esac\nexec {real} "$@"\n'
    )
    killed.chmod(0o755)
    monkeypatch.setenv("CXX", str(killed))
    native.forget()
    assert "Killed" in str(native.library("double.cpp").problem)
    killed.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
    native.forget()
    assert twice_21(native.library("double.cpp")) == 42


FIND = pytest.mark.parametrize("find", [native.library, lambda source: native.load([source])], ids=["library", "load"])
SOON = 10  # seconds


def compiler_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, first: str = ":") -> None:
    """In place of compiling, after it has written its number to the file `began`."""
    slow, real = tmp_path / "slow", os.environ["CXX"]
    began = f"echo $$ > {tmp_path}/beginning; mv {tmp_path}/beginning {tmp_path}/began"
    slow.write_text(f'#!/bin/sh\ncase "$*" in *-shared*) {first}; {began}; {does};; esac\nexec {real} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("CXX", str(slow))
    native.forget()


@contextlib.contextmanager
def interruption(begun: Path) -> Iterator[None]:
    """Interrupts this process, and nothing else, once a file is there; what is within must end soon, interrupted."""

    def interrupt() -> None:
        deadline = time.monotonic() + SOON
        while not begun.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)  # for what is within to wait for it too
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt, daemon=True)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            yield
        interrupted = time.monotonic()
        interrupting.join()
        assert time.monotonic() - interrupted < SOON
    finally:
        signal.signal(signal.SIGINT, before)


def assert_compiles_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left in the cache, and nothing is remembered as failed."""
    cache = tmp_path / "cache" / "kernels"
    assert not [path for path in cache.iterdir() if path.suffix != ".lock"]
    monkeypatch.setenv("CXX", str(tmp_path / "recording"))
    native.compiler.cache_clear()
    assert twice_21(native.library("double.cpp")) == 42


@FIND
@pytest.mark.parametrize("does", ["exec sleep 60", "sleep 60", "trap 'exit 1' INT TERM; sleep 60 & wait"])
def test_an_interruption_ends_compilers_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, find: Callable[[str], object], does: str
) -> None:
    """Also where the thread that compiles is another than the one that is interrupted, where a part of a compiler
    outlives it, and where it dies as if the source were wrong."""
    compiler_that(tmp_path, monkeypatch, does)
    started = time.monotonic()
    with interruption(tmp_path / "began"):
        find("double.cpp")
    assert time.monotonic() - started < SOON
    assert not running(int((tmp_path / "began").read_text()))
    assert_compiles_later(tmp_path, monkeypatch)


@pytest.mark.parametrize(("traps", "least"), [("", 0), ("trap '' TERM", 1)])
def test_a_compiler_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traps: str, least: float
) -> None:
    """Also one that does not listen, after a second."""
    compiler_that(tmp_path, monkeypatch, "sleep 20", first=traps or ":")
    monkeypatch.setattr(native, "COMPILE_SECONDS", 3)
    started = time.monotonic()
    assert "TimeoutExpired" in str(native.library("double.cpp").problem)
    assert 3 + least <= time.monotonic() - started < SOON
    assert not running(int((tmp_path / "began").read_text()))
    monkeypatch.setattr(native, "COMPILE_SECONDS", 60)
    native.forget()
    assert_compiles_later(tmp_path, monkeypatch)


@contextlib.contextmanager
def another_process_that_compiles(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """In a group of its own, which is killed in the end."""
    script = (
        "import sys; from pathlib import Path; from star.liv.kernels import native; "
        "native.SOURCES = Path(sys.argv[1]); native.load(['double.cpp'])"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(native.SOURCES)], start_new_session=True)
    try:
        while not (tmp_path / "began").exists():
            assert other.poll() is None
            time.sleep(0.01)
        yield other
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(other.pid, signal.SIGKILL)
        other.wait()


@FIND
def test_an_interruption_ends_the_wait_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, find: Callable[[str], object]
) -> None:
    compiler_that(tmp_path, monkeypatch, "exec sleep 60")
    with another_process_that_compiles(tmp_path):
        started = time.monotonic()
        with interruption(tmp_path / "began"):
            find("double.cpp")
        assert time.monotonic() - started < SOON
        assert len(list((tmp_path / "cache" / "kernels").glob(".compiling-*"))) == 1  # the other's


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_compilers_get_the_signals_of_their_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """A closed terminal or a job runner ends them with the process that started them."""
    compiler_that(tmp_path, monkeypatch, "exec sleep 60")
    with another_process_that_compiles(tmp_path) as other:
        os.killpg(other.pid, number)
        other.wait(timeout=SOON)
        deadline = time.monotonic() + SOON
        while running(int((tmp_path / "began").read_text())):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def running(process: int) -> bool:
    """One that is dead, but that nobody has waited for, does not run."""
    command = ["ps", "-o", "stat=", "-p", str(process)]
    state = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return state != "" and not state.startswith("Z")


def test_a_later_process_compiles_nothing(tmp_path: Path) -> None:
    first = native.library("double.cpp")
    native.forget()
    assert native.library("double.cpp").path == first.path
    assert compiled(tmp_path) == 1


def test_another_source_or_shared_header_is_another_library(tmp_path: Path) -> None:
    keys = {native.library("double.cpp").key}
    for name, text in (("double.cpp", "// changed\n"), ("vector.h", "// changed\n")):
        with (native.SOURCES / name).open("a") as file:
            file.write(text)
        native.forget()
        keys.add(native.library("double.cpp").key)
    assert len(keys) == 3


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data + b"x"])
def test_a_damaged_library_is_built_again(tmp_path: Path, damage) -> None:
    path = native.library("double.cpp").path
    assert path is not None
    damaged = path.with_name("damaged")
    damaged.write_bytes(damage(path.read_bytes()))
    damaged.replace(path)  # not in place: this process has it mapped
    native.forget()
    assert twice_21(native.library("double.cpp")) == 42
    assert compiled(tmp_path) == 2


def test_a_killed_compiler_leaves_nothing_that_is_taken_for_a_library(tmp_path: Path) -> None:
    """What another process left half-written has another name, and its lock died with it."""
    cache = tmp_path / "cache" / "kernels"
    left = cache / ".compiling-left"
    left.mkdir(parents=True)
    (left / "double.so").write_bytes(b"half")
    (cache / ".compiling-long-ago").mkdir()
    os.utime(cache / ".compiling-long-ago", (0, 0))
    assert twice_21(native.library("double.cpp")) == 42
    assert [path.name for path in cache.glob(".compiling-*")] == [left.name]


def test_a_cache_that_cannot_be_written_is_replaced_by_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STAR_CACHE", str(tmp_path / "file" / "cache"))
    library = native.library("double.cpp")
    assert twice_21(library) == 42
    assert library.path is not None
    assert library.path.parent == native.folders()[1]
    assert library.path.parent.stat().st_mode & 0o777 == 0o700


def test_no_library_is_loaded_from_a_folder_that_others_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STAR_CACHE", str(tmp_path / "file" / "cache"))
    shared = native.folders()[1]
    shared.mkdir()
    shared.chmod(0o777)
    problem = native.library("double.cpp").problem
    assert problem is not None
    assert "can be written" in problem
    assert compiled(tmp_path) == 0


def kernel() -> Kernel:
    served = Native("double.cpp", lambda number: twice_21(native.library("double.cpp")), lambda number: True)
    return Kernel("doubling", lambda number: 2 * number, lambda number: 2 * number, served)


def test_a_source_that_does_not_compile_runs_portable_with_one_notice_and_is_not_tried_again(tmp_path: Path) -> None:
    (native.SOURCES / "double.cpp").write_text("this is no C++\n")
    with pytest.warns(RuntimeWarning, match=r"double\.cpp does not compile .*portable") as caught:
        assert [kernel()(21) for _ in range(3)] == [42] * 3
    assert len(caught) == 1
    native.forget()
    assert "does not compile" in choice(kernel()).reason
    assert compiled(tmp_path) == 1
    record = next((tmp_path / "cache" / "kernels").glob("*.failed"))
    os.utime(record, times=(0, time.time() - native.FAILURE_SECONDS - 1))
    native.forget()
    assert native.library("double.cpp").problem is not None
    assert compiled(tmp_path) == 2


def test_no_compiler_means_portable_and_a_forced_native_version_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.warns(RuntimeWarning, match="no C.. compiler: no-such-compiler not found"):
        assert kernel()(21) == 42
    assert choice(kernel()).implementation is Implementation.PORTABLE
    monkeypatch.setenv("STAR_KERNELS", "native")
    with pytest.raises(StarError, match="forced, but cannot be used: there is no C"):
        kernel()(21)


def _compute_without_compiler(pipe: Connection) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipe.send((kernel()(21), len(caught)))


def test_workers_give_no_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    worker = context.Process(target=_compute_without_compiler, args=(theirs,))
    worker.start()
    assert ours.poll(60)
    assert ours.recv() == (42, 0)
    worker.join(10)


def test_a_machine_without_compiler_trains_portable_with_one_line_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole process with nothing on its path, through the operators' own functions."""
    program = (
        "import torch\n"
        "from star import LanguageModel\n"
        "model = LanguageModel.from_genome('51111 11111', width=32, vocab_size=9)\n"
        "for _ in range(2):\n"
        "    model(torch.zeros(1, 80, dtype=torch.long)).sum().backward()\n"
    )
    monkeypatch.delenv("CXX")
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.count("native kernels cannot be used") == 1
    assert "g++, c++, clang++ not found" in done.stderr
