"""AdamW, and which parameters it decays."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from star.training.recipe import TrainingRecipe

FUSED_DEVICES = frozenset({"cpu", "cuda"})


def is_decayed(parameter: nn.Parameter) -> bool:
    """Matrices are decayed. Vectors (norms, biases) are not, nor what is marked `no_weight_decay` (decay rates,
    step sizes): pulling those towards zero changes what they mean instead of making them simpler.
    """
    return parameter.ndim >= 2 and not getattr(parameter, "no_weight_decay", False)


def parameter_groups(model: nn.Module, weight_decay: float, state_space_ratio: float = 1.0) -> list[dict[str, Any]]:
    """The trainable parameters of `model`, each once: decayed ones, undecayed ones, and those that set the time scales
    of a state space, whose `learning_rate_ratio` is `state_space_ratio` instead of 1. Empty groups are left out."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    slow = [parameter for parameter in trainable if getattr(parameter, "of_state_space", False)]
    fast = [parameter for parameter in trainable if not getattr(parameter, "of_state_space", False)]
    groups = (
        ([parameter for parameter in fast if is_decayed(parameter)], weight_decay, 1.0),
        ([parameter for parameter in fast if not is_decayed(parameter)], 0.0, 1.0),
        (slow, 0.0, state_space_ratio),
    )
    return [
        {"params": parameters, "weight_decay": decay, "learning_rate_ratio": ratio}
        for parameters, decay, ratio in groups
        if parameters
    ]


def adamw(model: nn.Module, recipe: TrainingRecipe) -> torch.optim.AdamW:
    """The optimiser of `recipe` for `model`, whose parameters must all be on one device."""
    fused = all(parameter.device.type in FUSED_DEVICES for parameter in model.parameters())
    return torch.optim.AdamW(
        parameter_groups(model, recipe.weight_decay, recipe.state_space_learning_rate_ratio),
        lr=recipe.peak_learning_rate,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        fused=fused,
    )
