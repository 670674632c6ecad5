"""What arithmetic, library and how many threads a training uses, and how a caller gets its own settings back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch

from star.errors import StarError
from star.liv.kernels.matmul import by_onednn, probe
from star.training.recipe import Matmul, Precision

TILES_PAY = 128  # channels; with fewer, the native kernels and products of fp32 are faster than bf16 tiles


def autocast(precision: Precision, device: torch.device, width: int | None) -> AbstractContextManager[object]:
    """The context for forward passes: bf16 autocast where `uses_bf16`, else nothing."""
    if uses_bf16(precision, device, width):
        # Casts that are kept are shared by all threads of a process, so with replicas they may be another's.
        return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=device.type != "cpu")
    return contextlib.nullcontext()


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """The context in which the caller's autocast, which would hold for this thread alone, does not hold on `device`."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def uses_bf16(precision: Precision, device: torch.device, width: int | None) -> bool:
    """Whether `precision` means bf16 on `device`, for a model of `width` channels (None: taken for a wide one).

    `auto` chooses bf16 on CUDA devices that have it, and on CPUs with bf16 tiles (AMX) from `TILES_PAY` channels on.
    Other CPUs emulate it, or, with AVX512-BF16 alone, multiply it no faster than the native kernels and products of
    fp32 are together.
    """
    if precision is not Precision.AUTO:
        return precision is Precision.BF16
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    wide = width is None or width >= TILES_PAY
    return device.type == "cpu" and wide and _cpu_multiplies_bf16()


def _cpu_multiplies_bf16() -> bool:
    return bool(torch.cpu._is_amx_tile_supported())


def multiplying(matmul: Matmul, device: torch.device) -> AbstractContextManager[None]:
    """The context in which `matmul` multiplies what is float32 on `device`, and after which the caller's choice does.

    Raises:
        StarError: `matmul` cannot be used on this CPU, see `require_matmul`.
    """
    require_matmul(matmul, device)
    if matmul is Matmul.ONEDNN and device.type == "cpu":
        return by_onednn(True)
    return contextlib.nullcontext()


def require_matmul(matmul: Matmul, device: torch.device) -> None:
    """StarError where `matmul` is oneDNN and the products that it makes on this CPU are not float32."""
    if matmul is Matmul.ONEDNN and device.type == "cpu" and not (found := probe()).is_float32:
        raise StarError(f"training.matmul is 'onednn', but {found}; set it to 'default', or train on another CPU")


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Runs the body on `count` torch threads, then restores the caller's number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Lets the body use `seed_generators` without disturbing the caller's random numbers."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def seed_generators(seed: int, device: torch.device) -> None:
    """Seeds the generators of the CPU and of `device`, and no other (`torch.manual_seed` seeds every device)."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
