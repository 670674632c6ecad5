"""AdamW, and which parameters it decays."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw as functional_adamw

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


class AdamW:
    """AdamW (Loshchilov & Hutter 2019) by torch's functional form, with the ``param_groups`` and ``state`` of
    ``torch.optim.AdamW``.

    That class imports ``torch._dynamo`` when it is made, which takes longer than many a candidate waits for its first
    step, and sorts its parameters anew in every step.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        devices = {parameter.device.type for group in groups for parameter in group["params"]}
        self.fused = devices <= FUSED_DEVICES
        self.betas, self.eps = betas, eps
        self.param_groups = [{"lr": lr, **group} for group in groups]
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}
        """step, exp_avg and exp_avg_sq of every parameter that has had a gradient."""

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        beta1, beta2 = self.betas
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self.state.get(parameter) or self._begun(parameter) for parameter in moved]
            functional_adamw(
                moved,
                [parameter.grad for parameter in moved],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],  # of AMSGrad
                [state["step"] for state in states],
                foreach=False,
                fused=self.fused,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=self.eps,
                maximize=False,
            )

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _begun(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        step = torch.zeros((), dtype=torch.float32, device=parameter.device if self.fused else "cpu")
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        self.state[parameter] = {"step": step, **moments}
        return self.state[parameter]


def adamw(model: nn.Module, recipe: TrainingRecipe) -> AdamW:
    """The optimiser of `recipe` for `model`, whose parameters must all be on one device."""
    groups = parameter_groups(model, recipe.weight_decay, recipe.state_space_learning_rate_ratio)
    return AdamW(groups, lr=recipe.peak_learning_rate, betas=recipe.betas)
