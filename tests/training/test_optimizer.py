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
