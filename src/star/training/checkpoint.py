"""Checkpoints from which a killed training continues as if nothing had happened.

A checkpoint is a folder `step-000000123` with the weights, the optimiser state and the facts of the training. It is
written beside its place and renamed, so it is whole or absent; the older ones are removed after that.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from star.errors import StarError
from star.training.optimizer import AdamW
from star.training.recipe import TrainingRecipe

FORMAT = 1
MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
FACTS_FILE = "training.json"
FOLDER = "step-{:09d}"
TEMPORARY = ".saving-"


@dataclass(frozen=True)
class CheckpointPolicy:
    """Where a training keeps its checkpoints, and after how many tokens it writes one (and one at the end).

    Without `every_tokens` the only checkpoint is the one before the decay of a trapezoid; a training with a larger
    budget, but otherwise the same settings, continues from it, as if it had had that budget from the start.
    """

    folder: Path
    every_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.every_tokens is not None and self.every_tokens < 1:
            raise StarError(f"every_tokens = {self.every_tokens} must be at least 1")

    def is_due(self, before: int, after: int) -> bool:
        """Whether a step that went from `before` to `after` tokens passed a multiple of `every_tokens`."""
        return self.every_tokens is not None and after // self.every_tokens > before // self.every_tokens


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint knows besides tensors."""

    step: int  # steps done
    seconds: float
    curve: list[tuple[int, float]]
    monitor: dict[str, Any]  # the fields of LossMonitor
    identity: dict[str, Any]  # what must be the same for a training to be this one
    format: int = FORMAT


def save_checkpoint(folder: Path, state: TrainingState, model: nn.Module, optimizer: AdamW) -> None:
    """Writes a checkpoint into `folder` and removes the older ones. Raises StarError where it cannot be written."""
    target = folder / FOLDER.format(state.step)
    temporary = folder / f"{TEMPORARY}{state.step}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{TEMPORARY}*"):
            shutil.rmtree(left)
        temporary.mkdir()
        save_file(model_tensors(model), temporary / MODEL_FILE)
        save_file(_optimizer_tensors(model, optimizer), temporary / OPTIMIZER_FILE)
        (temporary / FACTS_FILE).write_text(json.dumps(asdict(state)), encoding="utf-8")
        for path in temporary.iterdir():
            flush(path)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        flush(folder)
        for older in _checkpoints(folder):
            if older != target:
                shutil.rmtree(older)
    except (OSError, SafetensorError) as error:
        raise StarError(
            f"the checkpoint {target} cannot be written ({error}): make room or choose another folder"
        ) from None


def load_checkpoint(folder: Path, identity: dict[str, Any], model: nn.Module, optimizer: AdamW) -> TrainingState | None:
    """Puts `model` and `optimizer` into the state of the last checkpoint in `folder`; None where there is none.

    Raises:
        StarError: the checkpoint is of another training (another `identity`, other parameters), or damaged.
    """
    found = _checkpoints(folder)
    if not found:
        return None
    path = found[-1]
    mend = f"continue with the same settings, choose another folder, or delete {folder} to start again"
    try:
        facts = json.loads((path / FACTS_FILE).read_text(encoding="utf-8"))
        if facts["format"] != FORMAT:
            raise StarError(f"{path} has format {facts['format']}, not {FORMAT}: delete {folder} to start again")
        facts["curve"] = [(tokens, loss) for tokens, loss in facts["curve"]]
        state = TrainingState(**facts)
        weights, moments = load_file(path / MODEL_FILE), load_file(path / OPTIMIZER_FILE)
    except (OSError, KeyError, TypeError, json.JSONDecodeError, SafetensorError) as error:
        raise StarError(f"the checkpoint {path} is damaged ({error}): delete it") from None
    if differing := _differences(_with_defaults(state.identity, identity), identity):
        raise StarError(f"{path} is a checkpoint of another training ({differing}): {mend}")
    _check_tensors(path, weights, model_tensors(model), mend)
    load_model_tensors(model, weights)
    _load_optimizer_tensors(model, optimizer, moments)
    return state


def _with_defaults(saved: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`saved` with the defaults of settings of ours that it was written without: it was trained without them."""
    fields = TrainingRecipe.model_fields
    missing = own.get("recipe", {}).keys() - saved.get("recipe", {}).keys()
    defaults = {
        name: fields[name].get_default() for name in missing if name in fields and not fields[name].is_required()
    }
    return {**saved, "recipe": {**saved.get("recipe", {}), **json.loads(json.dumps(defaults))}}


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter once (shared ones under their first name) and every persistent buffer, as fresh copies."""
    persistent = model.state_dict().keys()
    named: dict[str, Tensor] = dict(model.named_parameters())
    named |= {name: buffer for name, buffer in model.named_buffers() if name in persistent}
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}


@torch.no_grad()
def load_model_tensors(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """The inverse of `model_tensors`: copies into the existing tensors, so sharing and device stay as they are."""
    for name, tensor in {**dict(model.named_buffers()), **dict(model.named_parameters())}.items():
        if name in tensors:
            tensor.copy_(tensors[name])


def _optimizer_tensors(model: nn.Module, optimizer: AdamW) -> dict[str, Tensor]:
    """AdamW's step, exp_avg and exp_avg_sq of every parameter that has had a gradient, by name: `NAME/exp_avg`."""
    return {
        f"{name}/{key}": value.detach().cpu().contiguous().clone()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _load_optimizer_tensors(model: nn.Module, optimizer: AdamW, tensors: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for key, tensor in tensors.items():
        name, _, slot = key.rpartition("/")
        parameter = parameters[name]
        device = parameter.device if tensor.ndim or optimizer.fused else torch.device("cpu")
        optimizer.state.setdefault(parameter, {})[slot] = tensor.to(device)


def _check_tensors(path: Path, saved: dict[str, Tensor], own: dict[str, Tensor], mend: str) -> None:
    shapes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in saved.items()}
    expected = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in own.items()}
    if shapes != expected:
        name = min(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
        raise StarError(
            f"{path} is a checkpoint of another model (it has {shapes.get(name, 'no')} for {name!r} instead of "
            f"{expected.get(name, 'none')}): {mend}"
        )


def _differences(saved: dict[str, Any], own: dict[str, Any], prefix: str = "") -> str:
    parts = []
    for key in sorted(saved.keys() | own.keys()):
        before, now = saved.get(key), own.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            parts.append(_differences(before, now, f"{prefix}{key}."))
        elif before != now:
            parts.append(f"{prefix}{key} was {before}, is {now}")
    return ", ".join(part for part in parts if part)


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    found = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def flush(path: Path) -> None:
    """Makes a file or folder survive a power cut before it is renamed into place."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
