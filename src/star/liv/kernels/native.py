"""C++ compiled for this machine at first use, kept in the user's cache and loaded through ctypes.

A library is keyed by its source, the compiler and the CPU, so a cache may be shared by machines. Processes that need
the same one at the same time compile it once: the first takes a lock, the others wait. A library is used only if its
content is what was written, because loading a damaged one would end the process. No failure here is an error: the
operator runs portable, and the user is told once.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import multiprocessing
import os
import platform
import re
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from star.machine import cache_folder, usable_cores

SOURCES = Path(__file__).parent
INCLUDE = re.compile(r'^#include "(.+)"$', re.MULTILINE)
COMPILERS = ("g++", "c++", "clang++")
# No -ffast-math: it takes away the rounding that the exponential is built on, infinities and NaN.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-pthread")
COMPILE_SECONDS = 300
WAIT_SECONDS = 0.1  # between looks at a lock; and for the interruption that may have ended a compiler
KILLED = re.compile("terminated (program|with signal)")  # of a part of a compiler, as where memory is short
TEMPORARY = ".compiling-"
FAILURE_SECONDS = 24 * 3600  # a source that did not compile is not tried again for this long


@dataclass(frozen=True)
class Library:
    """A loaded library, or the `problem` why there is none."""

    key: str = ""
    path: Path | None = None
    handle: ctypes.CDLL | None = None
    problem: str | None = None

    def number(self, function: str, record: ctypes.Structure) -> int:
        """What a C function returns that takes a pointer to one record and gives an int64. Other Python threads run
        meanwhile."""
        assert self.handle is not None
        entry = getattr(self.handle, function)
        entry.restype = ctypes.c_int64
        return int(entry(ctypes.byref(record)))

    def call(self, function: str, record: ctypes.Structure) -> None:
        """Call a C function that takes a pointer to one record and gives nothing."""
        assert self.handle is not None
        entry = getattr(self.handle, function)
        entry.restype = None
        entry(ctypes.byref(record))


HALF = torch.bfloat16  # `Half` of vector.h


def readable(tensor: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Whether the native kernels are made for a tensor: of this dtype on the CPU, with storage and not empty."""
    return tensor.dtype is dtype and tensor.device.type == "cpu" and tensor.numel() > 0


def readable_alike(*tensors: Tensor) -> bool:
    """Whether all are readable, and of one dtype, float32 or `HALF`."""
    dtype = HALF if tensors[0].dtype is HALF else torch.float32
    return all(readable(tensor, dtype) for tensor in tensors)


def entry(function: str, dtype: torch.dtype) -> str:
    """The name of a C function that there is for both dtypes."""
    return f"{function}_half" if dtype is HALF else function


def side_by_side(tensor: Tensor) -> Tensor:
    """The tensor, copied only where its last dimension is not contiguous."""
    return tensor if tensor.shape[-1] == 1 or tensor.stride(-1) == 1 else tensor.contiguous()


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class _Failed(Exception):
    """Why there is no library, in one line."""


_libraries: dict[str, Library] = {}
_loading: dict[str, threading.Lock] = {}
_running: set[subprocess.Popen[bytes]] = set()  # compilers
_interrupted = threading.Event()  # nothing is compiled any more


def library(source: str) -> Library:
    """The library of a C++ file in this folder; found once for each process."""
    known = _libraries.get(source)
    if known is not None:
        return known
    with _loading.setdefault(source, threading.Lock()):
        if source not in _libraries:
            try:
                _libraries[source] = _found(source)
            except _Failed as failed:
                _libraries[source] = Library(problem=str(failed))
        return _libraries[source]


def load(sources: Iterable[str]) -> None:
    """Find the libraries of C++ files; those that are still to be compiled as many at a time as there are cores.

    An interruption of this process alone ends its compilers, as does taking too long; what one of them has started then
    ends by itself.
    """
    try:
        with ThreadPoolExecutor(usable_cores()) as pool:
            try:
                list(pool.map(library, sources))
            except KeyboardInterrupt:  # it reaches this thread alone
                _interrupted.set()
                pool.shutdown(wait=False, cancel_futures=True)
                for process in tuple(_running):
                    process.terminate()
                raise
    finally:
        _interrupted.clear()


def forget() -> None:
    """Look for compiler and libraries anew; for tests."""
    _libraries.clear()
    compiler.cache_clear()
    _notice.clear()


_notice: list[str] = []


def give_notice(problem: str, implementation: str = "native") -> None:
    """Warn once that the portable kernels run; only in the process that the user started, not in its workers."""
    if _notice or multiprocessing.parent_process() is not None:
        return
    _notice.append(problem)
    warnings.warn(
        f"the {implementation} kernels cannot be used ({problem}); the portable ones run instead, several times slower",
        RuntimeWarning,
        stacklevel=2,
    )


@dataclass(frozen=True)
class Compiler:
    command: tuple[str, ...]
    version: str


@cache
def compiler() -> Compiler | None:
    """$CXX, or the first of g++, c++ and clang++ that is on the path; None where there is none that answers."""
    own = os.environ.get("CXX")
    for command in [tuple(shlex.split(own))] if own else [(name,) for name in COMPILERS]:
        if not command or shutil.which(command[0]) is None:
            continue
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            answer = subprocess.run(
                [*command, "--version"], capture_output=True, text=True, errors="replace", timeout=60, check=True
            )
            return Compiler(command, answer.stdout.partition("\n")[0].strip())
    return None


def cpu() -> str:
    """What -march=native depends on."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "flags", "Features", "CPU part"):
                facts.setdefault(name.strip(), value.strip())
    return "\n".join([platform.machine(), platform.processor(), *(facts[name] for name in sorted(facts))])


def folders() -> tuple[Path, Path]:
    """Where libraries are kept: the cache, or where that cannot be written, a folder of this user's for temporary
    files."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return cache_folder() / "kernels", Path(tempfile.gettempdir()) / f"star-kernels-{user}"


def _trusted(place: Path) -> bool:
    """Whether libraries in a folder may be loaded: among temporary files only from one that nobody else can write."""
    if place == folders()[0]:
        return True
    with contextlib.suppress(OSError):
        facts = place.lstat()
        ours = not hasattr(os, "getuid") or facts.st_uid == os.getuid()
        return stat.S_ISDIR(facts.st_mode) and ours and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return False


def _writable(place: Path) -> bool:
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(place, os.W_OK) and _trusted(place)


def _found(source: str) -> Library:
    found = compiler()
    if found is None:
        raise _Failed(f"there is no C++ compiler: {os.environ.get('CXX') or ', '.join(COMPILERS)} not found")
    text, command = b"".join(_texts(source)), " ".join((*found.command, *FLAGS))
    parts = (text, command.encode(), found.version.encode(), cpu().encode())
    key = hashlib.blake2b(b"\0".join(parts), digest_size=8).hexdigest()
    name = f"{Path(source).stem}-{key}.so"
    places = folders()
    path = next((place / name for place in places if _trusted(place) and _whole(place / name)), None)
    try:
        if path is None:
            place = next((place for place in places if _writable(place)), None)
            if place is None:
                raise _Failed(f"neither {places[0]} nor {places[1]} can be written")
            path = place / name
            with _locked(path.with_suffix(".lock")):
                if not _whole(path):
                    _compile(SOURCES / source, path, found)
        return Library(key, path, ctypes.CDLL(str(path)))
    except OSError as error:
        raise _Failed(f"{source} cannot be compiled or loaded ({error.strerror or error})") from None


def _texts(source: str) -> list[bytes]:
    """The content of a file and of those beside it that it includes, directly or not."""
    texts, names = [], [source]
    for name in names:  # grows
        texts.append((SOURCES / name).read_bytes())
        names += [found for found in INCLUDE.findall(texts[-1].decode()) if found not in names]
    return texts


def _digest_of(path: Path) -> Path:
    return path.with_suffix(".digest")


def _whole(path: Path) -> bool:
    """Whether a library is there and is what was written."""
    try:
        return _digest_of(path).read_text() == hashlib.blake2b(path.read_bytes()).hexdigest()
    except (OSError, UnicodeDecodeError):
        return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; a process that dies gives its lock back."""
    with path.open("w") as file:
        with contextlib.suppress(ImportError, OSError):  # then several may compile; renaming keeps that safe
            import fcntl

            while not _interrupted.is_set():
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(WAIT_SECONDS)
        yield


def _compile(source: Path, path: Path, found: Compiler) -> None:
    record = path.with_suffix(".failed")
    with contextlib.suppress(OSError):
        if time.time() - record.stat().st_mtime < FAILURE_SECONDS:
            raise _Failed(record.read_text(encoding="utf-8", errors="replace"))
    for left in path.parent.glob(f"{TEMPORARY}*"):  # by a process that was killed
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > FAILURE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
    try:
        built = temporary / path.name
        command = [*found.command, *FLAGS, str(source), "-o", str(built)]
        try:
            status, said = _run(command, temporary / "errors")
        except subprocess.SubprocessError as error:
            raise _Failed(f"{shlex.join(command)} failed ({type(error).__name__})") from None
        if status or not built.exists():
            errors = [line for line in said.splitlines() if "error" in line] or said.splitlines()
            reason = f"{source.name} does not compile ({errors[0].strip() if errors else f'status {status}'})"
            if status == 1 and not KILLED.search(said):  # the compiler's verdict; not a full disk
                record.write_text(reason, encoding="utf-8")
            raise _Failed(reason)
        digest = temporary / "digest"
        digest.write_text(hashlib.blake2b(built.read_bytes()).hexdigest())
        built.replace(path)
        digest.replace(_digest_of(path))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _run(command: list[str], errors: Path) -> tuple[int, str]:
    """Status and errors, in English, of a compiler. Errors go through a file: of a pipe, parts of a compiler that
    outlive it would hold the end.

    Raises:
        KeyboardInterrupt: it was interrupted, or `load` was.
        subprocess.TimeoutExpired: it took too long.
    """
    if _interrupted.is_set():
        raise KeyboardInterrupt
    environment = {**os.environ, "LC_ALL": "C"}
    with (
        errors.open("wb") as said,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, env=environment
        ) as process,
    ):
        _running.add(process)
        try:
            if _interrupted.is_set():  # too late for `load` to have seen this one
                raise KeyboardInterrupt
            status = process.wait(COMPILE_SECONDS)
        except BaseException:
            process.terminate()  # g++ takes away what it has written, given the time
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10 * WAIT_SECONDS)
            finally:
                process.kill()
            raise
        finally:
            _running.discard(process)
    if status == -signal.SIGINT or (status and _interrupted.wait(WAIT_SECONDS)):
        raise KeyboardInterrupt
    return status, errors.read_text(encoding="utf-8", errors="replace")
