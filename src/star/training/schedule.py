"""The learning rate of every step."""

from __future__ import annotations

import math

from star.training.recipe import Schedule, TrainingRecipe


def learning_rate(recipe: TrainingRecipe, step: int) -> float:
    """The learning rate of `step` (counted from 0), a function of the tokens consumed with that step.

    Linear from 0 to the peak at `warmup_tokens`, then half a cosine to `final_learning_rate_ratio` times the peak,
    which the last step has (paper section 5). A trapezoid stays at the peak for `constant_steps` and comes down to the
    same end in a straight line (Hägele et al. 2024).
    """
    tokens = (step + 1) * recipe.step_tokens
    total = recipe.steps * recipe.step_tokens
    if tokens <= recipe.warmup_tokens:
        return recipe.peak_learning_rate * tokens / recipe.warmup_tokens
    if total <= recipe.warmup_tokens:  # a budget whose remainder after the warm-up is no whole step
        return recipe.peak_learning_rate
    floor = recipe.final_learning_rate_ratio
    if recipe.schedule is Schedule.TRAPEZOID:
        progress = max(0, step + 1 - recipe.constant_steps) / (recipe.steps - recipe.constant_steps)
        return recipe.peak_learning_rate * (1 - (1 - floor) * progress)
    progress = min(1.0, (tokens - recipe.warmup_tokens) / (total - recipe.warmup_tokens))
    return recipe.peak_learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
