"""torch.compile for a model LIV by LIV, so that a kind of LIV that was compiled before is found in the cache."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import nn

from star.liv import LIV
from star.machine import cache_folder

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
VERSIONS = 1024  # of one function that may be compiled: many kinds of LIVs share their code


@contextlib.contextmanager
def compiled(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Within this block every LIV of `model` runs compiled, if that is `wanted`.

    What the compiler makes is kept in the user's cache, where later trainings, in other processes too, find every kind
    of LIV that is built alike.
    """
    livs = [module for module in model.modules() if isinstance(module, LIV)] if wanted else []
    if not livs:
        yield
        return
    os.environ.setdefault(VARIABLE, str(cache_folder() / "compiled"))
    import torch._dynamo.config as settings

    with settings.patch(recompile_limit=VERSIONS, accumulated_recompile_limit=VERSIONS * 4):
        for liv in livs:
            liv.compile()
        try:
            yield
        finally:
            for liv in livs:
                liv._compiled_call_impl = None
            torch._dynamo.reset()
