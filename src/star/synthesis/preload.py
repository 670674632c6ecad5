"""What the forkserver imports once, so that a trial starts in milliseconds instead of seconds.

Only imports: nothing here may start a thread or touch CUDA, because neither survives a fork.
"""

from __future__ import annotations

# ruff: noqa: F401
import numpy.random
import torch

import star.data.windows
import star.evaluation.heldout
import star.evaluation.latency
import star.lm
import star.synthesis.trial
import star.synthesis.weights
import star.synthesis.worker
import star.training.loop
