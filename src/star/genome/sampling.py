"""Random LIV classes: operator and featurizer genomes drawn uniformly until the table of meaning admits one."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from random import Random

from star.genome.meaning import EQUAL_EXPANSION, GROUP_RULES, OPERATOR_RULES, STATE_GROUPS, refusals
from star.genome.pool import LivClass
from star.genome.structure import (
    GROUP_NAMES,
    ChannelMixing,
    FeatureGroup,
    FeaturizerGenome,
    Nonlinearity,
    OperatorGenome,
    Parametrization,
    Sparsity,
    StateSpace,
    TokenMixing,
)

STATE_SPACES = 0.25  # share of classes with a fixed state space, where one can be; independent draws would hardly agree

_MADE_OF_STATES = {TokenMixing.SCALED_TOEPLITZ: ("K",), TokenMixing.SEMI_SEPARABLE: STATE_GROUPS}


def random_class(
    liv: int, rng: Random, *, expansions: tuple[int, ...] = (1, 2), repeats: tuple[int, ...] = (1, 2)
) -> LivClass:
    """A random meaningful class with id `liv`: token mixing first, then the rest; sharing strategies are all sets of
    groups that leave at least one group from the input to the LIV."""
    mixing = rng.choice(list(TokenMixing))
    names = GROUP_NAMES[mixing]
    while True:
        operator = OperatorGenome(
            liv, mixing, rng.choice(list(Sparsity)), rng.choice(list(Nonlinearity)), rng.choice(list(ChannelMixing))
        )
        if any(rule.holds(operator) for rule in OPERATOR_RULES):
            continue
        groups = {name: _random_group(operator, name, rng, expansions, repeats) for name in names}
        for first, *others in EQUAL_EXPANSION.get(mixing, ()):
            for name in others:
                groups[name] = replace(groups[name], expansion=groups[first].expansion)
        if mixing is TokenMixing.LOW_RANK:
            groups["v"] = replace(groups["v"], repeat=groups["k"].repeat)
        if mixing in _MADE_OF_STATES and rng.random() < STATE_SPACES:
            size = rng.choice(expansions)
            for name in _MADE_OF_STATES[mixing]:
                implicit = FeatureGroup(Parametrization.IMPLICIT, TokenMixing.SEMI_SEPARABLE)
                groups[name] = implicit if name == "delta" else replace(implicit, expansion=size)
        featurizer = FeaturizerGenome(tuple(groups.values()))
        if refusals(operator, featurizer):
            continue
        inputs = {name for name, group in groups.items() if group.from_input}
        subsets = (subset for size in range(len(names)) for subset in combinations(names, size))
        strategies = tuple(subset for subset in subsets if not inputs <= {*subset})
        window = rng.choice((1, 2, 5, 16))
        odd = any(group.state_space and group.expansion % 2 for name, group in groups.items() if name != "delta")
        space = StateSpace.REAL if odd else rng.choice(list(StateSpace))
        return LivClass(liv, f"random-{liv}", operator, featurizer, strategies, window=window, state_space=space)


def _random_group(
    operator: OperatorGenome, name: str, rng: Random, expansions: tuple[int, ...], repeats: tuple[int, ...]
) -> FeatureGroup:
    while True:
        group = FeatureGroup(
            rng.choice([kind for kind in Parametrization if kind is not Parametrization.UNUSED]),
            rng.choice(list(TokenMixing)),
            rng.choice(list(Sparsity)),
            rng.choice(list(Nonlinearity)),
            rng.choice(list(ChannelMixing)),
            rng.choice(expansions),
            rng.choice(repeats),
        )
        if not any(rule.holds(operator, name, group) for rule in GROUP_RULES):
            return group
