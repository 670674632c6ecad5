"""How well an architecture learns the MAD tasks: accuracy after a short training on each."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from star.evaluation.mad import IGNORED, TASKS, Task
from star.lm import LanguageModel
from star.training.optimizer import AdamW, parameter_groups
from star.training.precision import own_randomness, threads

#: Builds the candidate for a task: vocabulary size, sequence length and seed → a fresh model.
MakeModel = Callable[[int, int, int], LanguageModel]


@dataclass(frozen=True)
class MadSettings:
    """The protocol: AdamW with a linear warm-up of a tenth of the steps and a cosine decay to zero."""

    steps: int = 300
    batch_size: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    test_sequences: int = 256
    threads: int = 1


def mad_scores(
    make_model: MakeModel,
    *,
    seed: int,
    settings: MadSettings | None = None,
    tasks: Sequence[Task] = TASKS,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Accuracy on unseen sequences of each task, from 0 to 1, by name. A function of the arguments on one machine."""
    settings = settings or MadSettings()
    with threads(settings.threads), own_randomness(torch.device(device)):
        return {task.name: _accuracy(make_model, task, seed, settings, torch.device(device)) for task in tasks}


def mean_score(scores: dict[str, float]) -> float:
    """The score of an architecture: the mean over its tasks."""
    return fmean(scores.values())


class _Reader(nn.Module):
    """Logits for the targets of a task. Of a compressing one they are read from the last position alone: its output and
    the embedding of a place go through an MLP."""

    def __init__(self, model: LanguageModel, task: Task) -> None:
        super().__init__()
        self.model = model
        width = model.config.width
        self.places = nn.Parameter(0.02 * torch.randn(task.length, width)) if task.compresses else None
        self.decode = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, task.vocab_size))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [B, ℓ] → [B, ℓ, vocab]."""
        if self.places is None:
            return self.model(tokens)
        summary = self.model.hidden(tokens)[:, -1:].expand(-1, tokens.shape[1], -1)
        return self.decode(torch.cat([summary, self.places.expand_as(summary)], dim=-1))


def _accuracy(make_model: MakeModel, task: Task, seed: int, settings: MadSettings, device: torch.device) -> float:
    task_seed = zlib.crc32(f"{seed} {task.name}".encode())
    train_data, test_data = (np.random.default_rng((task_seed, part)) for part in (0, 1))
    torch.manual_seed(task_seed)
    reader = _Reader(make_model(task.vocab_size, task.length, task_seed), task).to(device).train()
    trained = [parameter for parameter in reader.parameters() if parameter.requires_grad]
    optimizer = AdamW(parameter_groups(reader, settings.weight_decay), lr=settings.learning_rate)
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _rate(step, settings.steps)
        tokens, targets = (torch.from_numpy(part).to(device) for part in task.generate(train_data, settings.batch_size))
        loss = functional.cross_entropy(reader(tokens).flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    tokens, targets = (torch.from_numpy(part).to(device) for part in task.generate(test_data, settings.test_sequences))
    reader.eval()
    with torch.no_grad():
        answers = torch.cat([reader(part).argmax(-1) for part in tokens.split(settings.batch_size)])
    asked = targets != IGNORED
    return float((answers[asked] == targets[asked]).double().mean())


def _rate(step: int, steps: int) -> float:
    warmup = max(1, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + float(np.cos(np.pi * (step - warmup) / max(1, steps - warmup))))
