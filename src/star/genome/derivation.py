"""The classes next to a class: one integer of its operator or featurizer genome is another one, and with it what must
follow for the class to mean something. Their names say what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from enum import IntEnum
from functools import lru_cache
from itertools import combinations, product
from random import Random
from typing import Any

from star.genome.extended import EXTENDED_CLASSES
from star.genome.meaning import CONTENT, EQUAL_EXPANSION, GROUP_RULES, OPERATOR_RULES, STATE_GROUPS, refusals, settled
from star.genome.paper import PAPER_CLASSES
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

MOST_EXPANSION, MOST_STATES, MOST_REPEAT = 8, 256, 16  # that mutations lead to
LONGEST_NAME = 32  # characters, so that tables have room
ROUNDS = 4  # in which the groups of a class settle on integers that go together

#: For each token mixing the class that lends its feature groups, where an operator gets another structure, and its
#: sharing strategies.
FAMILIES: dict[TokenMixing, LivClass] = {
    row.operator.token_mixing: row
    for row in reversed([row for row in (*PAPER_CLASSES, *EXTENDED_CLASSES) if not row.differential])
}

_STRUCTURE = (TokenMixing, Sparsity, Nonlinearity, ChannelMixing)
_OPERATOR_FIELDS = ("featurizer", "token_mixing", "sparsity", "nonlinearity", "channel_mixing")
_GROUP_FIELDS = ("parametrization", *_OPERATOR_FIELDS[1:], "expansion", "repeat")
_EXPANSION, _REPEAT = 5, 6  # places among the integers of a group

#: For each integer its values as repair tries them; a size goes back to 1.
_OPERATOR_VALUES: tuple[tuple[Any, ...], ...] = ((0,), *(tuple(kind) for kind in _STRUCTURE))
_GROUP_VALUES = (tuple(Parametrization)[1:], *_OPERATOR_VALUES[1:], (1,), (1,))

OPERATOR = "operator"
Integers = tuple[Any, ...]  # of one genome, as members of their enumerations where they have one


def places(row: LivClass) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Where the integers of a class stand that mutate, as genome and place: those of its operator genome, all but the
    number of the featurizer class, and those of its featurizer genome, group by group. Places count from 0."""
    groups = [(name, place) for name in row.group_names for place in range(len(_GROUP_FIELDS))]
    return [(OPERATOR, place) for place in range(1, len(_OPERATOR_FIELDS))], groups


@lru_cache(maxsize=16384)
def changed(row: LivClass, genome: str, place: int) -> tuple[LivClass, ...]:
    """The valid classes, other than `row`, that another value of one integer leads to: the one at `place` of `genome`,
    which is `OPERATOR` or the name of a feature group. They have the id and the name of `row`.

    What has to follow the integer follows: groups that must agree get its value, and integers that have no meaning
    beside it the nearest values that have one; where a group comes from follows in a fixed state space only, which is
    one as a whole. Expansions and repeats grow and shrink by one, or double and halve. `differential`, `window` and
    `state_space` stay, the last unless a state size is odd.
    """
    if genome == OPERATOR:
        found = [_with_operator(row, place, value) for value in _OPERATOR_VALUES[place]]
    else:
        found = [_with_group(row, genome, place, value) for value in _values(genome, row.groups[genome], place)]
    different = {other.identity: other for other in found if other is not None and other.identity != row.identity}
    return tuple(different.values())


def derived(row: LivClass, rng: Random, fits: Callable[[LivClass], bool]) -> LivClass | None:
    """A class in which one integer of `row` is another one, named after what it is; None where no class is like that
    and `fits`. The operator and the featurizer genome are equally likely, and so are those of their integers that can
    change."""
    operator, featurizer = places(row)
    first, second = (operator, featurizer) if rng.random() < 0.5 else (featurizer, operator)
    for genome, place in (*rng.sample(first, len(first)), *rng.sample(second, len(second))):
        if found := [other for other in changed(row, genome, place) if fits(other)]:
            chosen = rng.choice(found)
            return replace(chosen, name=described(chosen))
    return None


def _values(name: str, group: FeatureGroup, place: int) -> Iterable[Any]:
    value = _integers(group)[place]
    if place < _EXPANSION:
        return _GROUP_VALUES[place]
    most = MOST_REPEAT if place == _REPEAT else MOST_STATES if name in ("K", "B", "C") else MOST_EXPANSION
    return [size for size in (value // 2, value - 1, value + 1, 2 * value) if 1 <= size <= max(most, value)]


def _with_operator(row: LivClass, place: int, value: int) -> LivClass | None:
    old = _integers(row.operator)
    changed = _nearest((*old[:place], value, *old[place + 1 :]), _OPERATOR_VALUES, {0, place}, _operator_has_meaning)
    if changed is None:
        return None
    operator = OperatorGenome(*changed)
    if operator.token_mixing is row.operator.token_mixing:
        return _settled(row, operator, row.groups)
    groups = dict(FAMILIES[operator.token_mixing].groups)
    content = CONTENT.get(operator.token_mixing)
    if content is not None and content == CONTENT.get(row.operator.token_mixing):
        groups[content] = row.groups[content]
    return _settled(row, operator, groups)


def _with_group(row: LivClass, name: str, place: int, value: int) -> LivClass | None:
    old = _integers(row.groups[name])
    new: Integers = (*old[:place], value, *old[place + 1 :])
    changed = FeatureGroup(*new)
    return _settled(row, row.operator, {**row.groups, name: changed}, name, place)


def _settled(
    row: LivClass, operator: OperatorGenome, groups: dict[str, FeatureGroup], lead: str | None = None, held: int = 0
) -> LivClass | None:
    """The class of these genomes, where the integers of groups may give way to the one at `held` of `lead`; None where
    they find no meaning."""
    for _ in range(ROUNDS):
        before = groups
        groups = _agreed(operator, groups, lead)
        near = {
            name: _nearest_group(operator, name, group, held if name == lead else 0) for name, group in groups.items()
        }
        if any(group is None for group in near.values()):
            return None
        groups = {name: group for name, group in near.items() if group is not None}
        if groups == before:
            break
    featurizer = FeaturizerGenome(tuple(settled(name, group) for name, group in groups.items()))
    if refusals(operator, featurizer):
        return None
    odd = any(group.state_space and group.expansion % 2 for name, group in groups.items() if name != "delta")
    return LivClass(
        row.id,
        row.name,
        operator,
        featurizer,
        strategies_of(operator.token_mixing, groups),
        row.differential,
        row.window,
        StateSpace.REAL if odd else row.state_space,
    )


def _agreed(operator: OperatorGenome, groups: dict[str, FeatureGroup], lead: str | None) -> dict[str, FeatureGroup]:
    """Groups that must have something in common get it: from `lead`, else from the first of them."""
    groups = dict(groups)
    mixing = operator.token_mixing
    if mixing is TokenMixing.SEMI_SEPARABLE:
        groups = _state_space_or_not(groups, lead)
    for names in EQUAL_EXPANSION.get(mixing, ()):
        equal = [name for name in names if not (name == "delta" and groups[name].state_space)]
        expansion = groups[lead if lead in equal else equal[0]].expansion
        groups |= {name: replace(groups[name], expansion=expansion) for name in equal}
    if mixing is TokenMixing.LOW_RANK:
        repeat = groups[lead if lead in ("k", "v") else "k"].repeat
        groups |= {name: replace(groups[name], repeat=repeat) for name in ("k", "v")}
    return groups


def _state_space_or_not(groups: dict[str, FeatureGroup], lead: str | None) -> dict[str, FeatureGroup]:
    """Δ, B and C are one fixed state space, or none of them is part of one."""
    fixed = groups[lead if lead in STATE_GROUPS else "B"].state_space
    for name in STATE_GROUPS:
        if fixed and not groups[name].state_space:
            size = 1 if name == "delta" else groups[name].expansion
            groups[name] = FeatureGroup(Parametrization.IMPLICIT, TokenMixing.SEMI_SEPARABLE, expansion=size)
        elif not fixed and groups[name].state_space:
            groups[name] = FeatureGroup(Parametrization.INPUT, expansion=groups[name].expansion)
    return groups


@lru_cache(maxsize=65536)
def _nearest_group(operator: OperatorGenome, name: str, group: FeatureGroup, held: int) -> FeatureGroup | None:
    def has_meaning(values: Integers) -> bool:
        tried = FeatureGroup(*values)
        return not any(rule.holds(operator, name, tried) for rule in GROUP_RULES)

    found = _nearest(_integers(group), _GROUP_VALUES, {0, held}, has_meaning)
    return None if found is None else FeatureGroup(*found)


def _nearest(
    values: Integers, choices: Sequence[Integers], held: set[int], has_meaning: Callable[[Integers], bool]
) -> Integers | None:
    """The integers that have a meaning and differ from `values` in as few places as can be, none of them `held`."""
    free = [place for place in range(len(values)) if place not in held]
    for count in range(len(free) + 1):
        for places in combinations(free, count):
            others = ([choice for choice in choices[place] if choice != values[place]] for place in places)
            for chosen in product(*others):
                new = dict(zip(places, chosen, strict=True))
                tried = tuple(new.get(place, value) for place, value in enumerate(values))
                if has_meaning(tried):
                    return tried
    return None


def _integers(genome: OperatorGenome | FeatureGroup) -> Integers:
    return tuple(getattr(genome, name) for name in genome.__slots__)


def _operator_has_meaning(values: Integers) -> bool:
    operator = OperatorGenome(*values)
    return not any(rule.holds(operator) for rule in OPERATOR_RULES)


def strategies_of(mixing: TokenMixing, groups: dict[str, FeatureGroup]) -> tuple[tuple[str, ...], ...]:
    """The sharing strategies of the family of a token mixing, without those that leave a LIV no group from the input of
    its own beside a constant."""
    inputs = {name for name in GROUP_NAMES[mixing] if groups[name].from_input}
    whole = len(inputs) == len(groups)
    return tuple(strategy for strategy in FAMILIES[mixing].strategies if whole or not inputs <= set(strategy))


def described(row: LivClass) -> str:
    """A short name that says what a class is: the nearest class of the pools that come with STAR, with the same token
    mixing, and what is different about this one, or in how many integers it differs where that is long."""
    known = [other for other in _KNOWN if other.operator.token_mixing is row.operator.token_mixing]
    near = min(known, key=lambda other: (other.differential is not row.differential, len(_differences(other, row))))
    differences = _differences(near, row)
    groups: dict[str, list[str]] = {}
    for genome, difference in differences:
        groups.setdefault(difference, []).append(genome)
    parts = [text if where == [OPERATOR] else f"{'+'.join(where)} {text}" for text, where in groups.items()]
    if row.identity != near.identity and not parts:
        parts = [f"window {row.window}" if row.reach != near.reach else row.state_space.value]
    name = ", ".join([near.name, *parts])
    count = len(differences)
    return name if len(name) <= LONGEST_NAME else f"{near.name}, {count} change{'' if count == 1 else 's'}"


def _differences(one: LivClass, other: LivClass) -> list[tuple[str, str]]:
    """The integers in which `other` is not `one`, of the same token mixing: their genomes, and what they are. The
    sparsity of a group goes with its token mixing."""
    fields = _GROUP_FIELDS[:2] + _GROUP_FIELDS[3:]
    pairs = [
        (OPERATOR, one.operator, other.operator, _OPERATOR_FIELDS[1:]),
        *((name, settled(name, one.groups[name]), settled(name, other.groups[name]), fields) for name in one.groups),
    ]
    return [
        (genome, _in_words(field, getattr(second, field)))
        for genome, first, second, fields in pairs
        for field in fields
        if getattr(first, field) != getattr(second, field)
    ]


def _in_words(field: str, value: IntEnum | int) -> str:
    if not isinstance(value, IntEnum):
        return f"{field} {value}"
    if value.name == "NONE":
        return f"no {field}"
    return value.name.lower().replace("_", " ") + (" channels" if field == "channel_mixing" else "")


_KNOWN = (*PAPER_CLASSES, *EXTENDED_CLASSES)
