from __future__ import annotations

import torch
from tiny_model import TinyModel

from star.training import TrainingRecipe
from star.training.optimizer import adamw, parameter_groups


def test_only_unmarked_matrices_are_decayed_and_every_parameter_is_there_once() -> None:
    model = TinyModel()
    decayed, undecayed = parameter_groups(model, 0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(parameter)] for parameter in decayed["params"]} == {"embedding.weight", "hidden.weight", "unused"}
    assert {names[id(parameter)] for parameter in undecayed["params"]} == {"norm.weight", "norm.bias", "rates"}
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.1, 0.0)


def test_frozen_parameters_are_left_out() -> None:
    model = TinyModel()
    model.requires_grad_(False)
    model.norm.requires_grad_(True)
    (group,) = parameter_groups(model, 0.1)
    assert len(group["params"]) == 2


def test_a_step_is_that_of_adamw_by_the_book(recipe: TrainingRecipe) -> None:
    model = torch.nn.Linear(3, 2, bias=False)
    before = model.weight.detach().clone()
    optimizer = adamw(model, recipe)
    gradient = torch.tensor([[1.0, -2.0, 0.5], [0.1, 0.0, -3.0]])
    model.weight.grad = gradient.clone()
    optimizer.step()
    rate = recipe.peak_learning_rate
    # The first step of Adam, bias-corrected, is the sign of the gradient; the decay is decoupled from it.
    expected = before * (1 - rate * 0.1) - rate * gradient / (gradient.abs() + 1e-8)
    assert torch.allclose(model.weight, expected, atol=1e-7)


def test_many_steps_are_those_of_torch(recipe: TrainingRecipe) -> None:
    ours, theirs = TinyModel(dropout=0), TinyModel(dropout=0)
    theirs.load_state_dict(ours.state_dict())
    optimizer = adamw(ours, recipe)
    groups = parameter_groups(theirs, recipe.weight_decay, recipe.state_space_learning_rate_ratio)
    expected = torch.optim.AdamW(groups, lr=recipe.peak_learning_rate, betas=recipe.betas, fused=True)
    generator = torch.Generator().manual_seed(0)
    for step in range(5):
        for group, other in zip(optimizer.param_groups, expected.param_groups, strict=True):
            group["lr"] = other["lr"] = 1e-2 / (step + 1)
        for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            if step and parameter.ndim == 1:  # one that had a gradient, and has none now, rests
                continue
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad, other.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        expected.step()
        optimizer.zero_grad()
        expected.zero_grad()
        assert all(parameter.grad is None for parameter in ours.parameters())
    for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(parameter, other)
        for name, value in expected.state[other].items():
            assert torch.equal(optimizer.state[parameter][name], value)
