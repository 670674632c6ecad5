"""Operators for GPUs in Triton, one file each. Nothing here imports Triton before an operator of it runs."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@cache
def version() -> str | None:
    """The version of Triton, or None where it is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        return installed_version("triton")
    except PackageNotFoundError:  # a build without metadata
        return "unknown"


def interpreted() -> bool:
    """Whether Triton's interpreter is asked for, which runs kernels on a CPU, thousands of times slower; for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def problem(device: torch.device) -> str | None:
    """Why Triton cannot be used for tensors on a device; None where it can."""
    if version() is None:
        return "Triton is not installed; it comes with the extra `gpu`"
    if device.type == "cpu" and not interpreted():
        return "on a CPU Triton only runs in its interpreter; set TRITON_INTERPRET=1 for that"
    if device.type not in ("cpu", "cuda"):
        return f"Triton is not used on the device {device.type}"
    return None


def function(module: str, name: str) -> Callable[..., Any]:
    """A function of a file in this folder, which is imported now."""
    found: Callable[..., Any] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return found


def on(tensor: Tensor) -> AbstractContextManager[Any]:
    """Kernels started in this block run where a tensor is."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()


def readable(*tensors: Tensor | None) -> bool:
    """Whether the kernels are made for these tensors: on one device, of a usual precision, and not empty."""
    given = [tensor for tensor in tensors if tensor is not None]
    alike = all(tensor.device == given[0].device for tensor in given)
    return alike and all(tensor.dtype in DTYPES and tensor.numel() > 0 for tensor in given)
