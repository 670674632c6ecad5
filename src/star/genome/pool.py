"""Option pools: the tables of LIV classes that a backbone may use (paper A.6)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from star.errors import StarError
from star.genome.extension import FIRST_DERIVED, IDENTITY, Extension, arity, parse_extensions
from star.genome.meaning import STATE_GROUPS, refusals, settled
from star.genome.structure import (
    GROUP_NAMES,
    FeatureGroup,
    FeaturizerGenome,
    OperatorGenome,
    Sparsity,
    StateSpace,
    TokenMixing,
)


@dataclass(frozen=True)
class LivClass:
    """One row of an option pool.

    `strategies[s - 1]` names the feature groups that feature-group sharing with strategy `s` takes from the source;
    the first strategy is always "nothing". A `differential` class applies two LIVs of this description in parallel and
    outputs their difference. `window` is the band or block length, in tokens, where the operator genome has one, and
    how far resampled groups reach back. `state_space` says how a fixed state space starts, where a group is one.
    """

    id: int
    name: str
    operator: OperatorGenome
    featurizer: FeaturizerGenome
    strategies: tuple[tuple[str, ...], ...] = ((),)
    differential: bool = False
    window: int = 64
    state_space: StateSpace = StateSpace.LIN

    def __post_init__(self) -> None:
        if self.id < 1 or self.window < 1:
            raise StarError(f"LIV class {self.name!r} has id {self.id} and window {self.window}; both start at 1.")
        if reasons := refusals(self.operator, self.featurizer):
            raise StarError(f"LIV class {self.name!r} (operator {self.operator}) has no meaning: {'; '.join(reasons)}.")
        odd = [name for name in self.state_spaces if self.groups[name].expansion % 2 and name != "delta"]
        if odd and self.state_space is StateSpace.LIN:
            raise StarError(
                f"LIV class {self.name!r} has a state size (expansion of {', '.join(odd)}) that is odd, but the state "
                f"space {self.state_space.value!r} has pairs of complex modes; use an even one, or "
                f"{StateSpace.REAL.value!r}."
            )
        unknown = {name for strategy in self.strategies for name in strategy} - set(self.group_names)
        if not self.strategies or self.strategies[0] or unknown or len(set(self.strategies)) < len(self.strategies):
            raise StarError(
                f"LIV class {self.name!r} has sharing strategies {self.strategies}; allowed: different subsets of "
                f"{', '.join(self.group_names)}, the first of them empty."
            )
        from_input = {name for name, group in self.groups.items() if group.from_input}
        if len(from_input) < len(self.groups) and any(from_input <= set(strategy) for strategy in self.strategies):
            raise StarError(
                f"LIV class {self.name!r} has a sharing strategy that takes every feature group but the kernel; "
                f"leave one of {', '.join(sorted(from_input))} to the LIV itself."
            )

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of the feature groups, in the featurizer genome's order."""
        return GROUP_NAMES[self.operator.token_mixing]

    @cached_property
    def groups(self) -> dict[str, FeatureGroup]:
        """The featurizer genome by group name."""
        return dict(zip(self.group_names, self.featurizer, strict=True))

    @property
    def state_spaces(self) -> tuple[str, ...]:
        """Names of the groups that are made from a fixed state space."""
        return tuple(name for name, group in self.groups.items() if group.state_space)

    @cached_property
    def reading_v(self) -> tuple[str, ...]:
        """Names of the groups that are computed from the LIV's own v, not from x: Δ, B and C with Toeplitz token mixing
        beside a v that has it, too (as in Mamba)."""
        toeplitz = [name for name, group in self.groups.items() if group.token_mixing is TokenMixing.SCALED_TOEPLITZ]
        convolved = self.operator.token_mixing is TokenMixing.SEMI_SEPARABLE and "v" in toeplitz
        return tuple(name for name in STATE_GROUPS if name in toeplitz) if convolved else ()

    @property
    def reach(self) -> int | None:
        """The window, where anything depends on it."""
        resampled = any(group.from_input and group.token_mixing is TokenMixing.RESAMPLING for group in self.featurizer)
        return self.window if resampled or self.operator.sparsity is not Sparsity.NONE else None

    @property
    def memoryless(self) -> bool:
        """True where no token sees another one."""
        return self.operator.token_mixing is TokenMixing.DIAGONAL

    @cached_property
    def description(self) -> str:
        """Everything that fixes the network of one such LIV, as text, for hashing."""
        difference = "difference " if self.differential else ""
        strategies = " ".join("+".join(strategy) or "-" for strategy in self.strategies)
        window = "" if self.reach is None else f" {self.reach}"
        space = f" {self.state_space.value}" if self.state_spaces else ""
        return f"{self.id} {difference}{self.operator} {self.featurizer} {strategies}{window}{space}"

    @cached_property
    def identity(self) -> str:
        """What makes two rows one class: the integers that have an effect, and the fields that go with them. Ids,
        names, strategies and the number of the featurizer class do not count."""
        groups = "-".join(str(settled(name, group)) for name, group in self.groups.items())
        fields = ("difference" if self.differential else "", "" if self.reach is None else str(self.reach))
        space = self.state_space.value if self.state_spaces else ""
        return " ".join([str(replace(self.operator, featurizer=0)), groups, *fields, space])

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_dict`."""
        return {
            "id": self.id,
            "name": self.name,
            "operator": str(self.operator),
            "featurizer": str(self.featurizer),
            "strategies": [list(strategy) for strategy in self.strategies],
            "differential": self.differential,
            "window": self.window,
            "state_space": self.state_space.value,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LivClass:
        """Read what `to_dict` wrote, or a row of a recipe, where strategies may leave out the first, empty one."""
        fields = ("id", "name", "operator", "featurizer", "strategies", "differential", "window", "state_space")
        unknown = [key for key in data if key not in fields]
        missing = [key for key in fields[:4] if key not in data]
        if unknown or missing:
            raise StarError(
                f"a LIV class has the fields {', '.join(fields)}, the first four always; "
                + "; ".join(filter(None, (_named("unknown", unknown), _named("missing", missing))))
                + "."
            )
        strategies = data.get("strategies", [])
        if not isinstance(strategies, list | tuple) or any(isinstance(strategy, str) for strategy in strategies):
            raise StarError(
                f'strategies of a LIV class are lists of feature groups, [["k"], ["k", "v"]]; not {strategies}.'
            )
        named = [tuple(map(str, strategy)) for strategy in strategies]
        try:
            return cls(
                id=int(data["id"]),
                name=str(data["name"]),
                operator=OperatorGenome.parse(str(data["operator"])),
                featurizer=FeaturizerGenome.parse(str(data["featurizer"])),
                strategies=tuple(named if named[:1] == [()] else [(), *named]),
                differential=bool(data.get("differential", False)),
                window=int(data.get("window", 64)),
                state_space=StateSpace.parse(str(data.get("state_space", StateSpace.LIN.value))),
            )
        except (TypeError, ValueError) as error:
            if isinstance(error, StarError):
                raise
            raise StarError(f"LIV class {data['name']!r}: id and window are whole numbers; {error}.") from None


def _named(what: str, keys: list[str]) -> str:
    return f"{what}: {', '.join(keys)}" if keys else ""


@dataclass(frozen=True)
class OptionPool:
    """LIV classes by id, and what genomes may use beside the five integers of a segment. Pools are data: a search draws
    from one, a checkpoint carries its own."""

    name: str
    rows: tuple[LivClass, ...]
    extensions: tuple[Extension, ...] = ()
    _by_id: dict[int, LivClass] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        by_id = {row.id: row for row in self.rows}
        if not by_id or len(by_id) < len(self.rows):
            raise StarError(f"pool {self.name!r} needs at least one LIV class, and each id once.")
        object.__setattr__(self, "_by_id", by_id)
        object.__setattr__(self, "extensions", parse_extensions(self.extensions))

    @classmethod
    def paper(cls) -> OptionPool:
        """The 17 classes of paper A.6.1 and A.6.2."""
        from star.genome.paper import PAPER_CLASSES

        return cls("paper", PAPER_CLASSES)

    @classmethod
    def full(cls) -> OptionPool:
        """The paper's classes and 18 to 31: linear and sliding-window attention, state spaces, the Deformer, and their
        differences."""
        from star.genome.extended import EXTENDED_CLASSES
        from star.genome.paper import PAPER_CLASSES

        return cls("extended", PAPER_CLASSES + EXTENDED_CLASSES)

    def extended(self, *rows: LivClass) -> OptionPool:
        """This pool with more classes; a row with an id that is here already takes its place."""
        kept = tuple(row for row in self.rows if row.id not in {new.id for new in rows})
        return OptionPool(self.name, kept + rows, self.extensions)

    def adopted(self, row: LivClass) -> tuple[OptionPool, LivClass]:
        """This pool and its row that is the same class as `row`; where there is none, a larger pool and its new row,
        with the next free id from `FIRST_DERIVED` on and a name of its own."""
        for known in self.rows:
            if known.identity == row.identity:
                return self, known
        liv = max(FIRST_DERIVED - 1, *self.ids) + 1
        labels = [known.operator.featurizer for known in self.rows if known.featurizer == row.featurizer]
        operator = replace(row.operator, featurizer=labels[0] if labels else liv)
        name = row.name if all(known.name != row.name for known in self.rows) else f"{row.name} ({liv})"
        new = replace(row, id=liv, name=name, operator=operator)
        return OptionPool(self.name, (*self.rows, new), self.extensions), new

    def with_extensions(self, *names: str) -> OptionPool:
        """The same classes with just these extensions; `StarError` for an unknown name."""
        return OptionPool(self.name, self.rows, parse_extensions(names))

    @property
    def classes(self) -> dict[int, LivClass]:
        """LIV classes by id."""
        return dict(self._by_id)

    @property
    def ids(self) -> tuple[int, ...]:
        """All class ids, ascending."""
        return tuple(sorted(self._by_id))

    @property
    def choices(self) -> tuple[int, ...]:
        """What integer 1 of a segment can be: the class ids, and 0, the identity, where depth may vary."""
        return (IDENTITY, *self.ids) if Extension.DEPTH in self.extensions else self.ids

    @property
    def arity(self) -> int:
        """How many integers a segment has: 5, more with extensions."""
        return arity(self.extensions)

    def __contains__(self, liv: object) -> bool:
        return liv in self._by_id

    def __getitem__(self, liv: int) -> LivClass:
        try:
            return self._by_id[liv]
        except KeyError:
            raise StarError(f"LIV class {liv} is not in pool {self.name!r}; it has {ranges(self.ids)}.") from None

    @property
    def digest(self) -> str:
        """Hash of everything in the pool but names."""
        parts = [*(self[liv].description for liv in self.ids), *self.extensions]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_dict`."""
        return {
            "name": self.name,
            "classes": [row.to_dict() for row in self.rows],
            "extensions": [extension.value for extension in self.extensions],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> OptionPool:
        """Read what `to_dict` wrote."""
        classes = tuple(LivClass.from_dict(row) for row in data["classes"])
        return cls(str(data["name"]), classes, parse_extensions(data.get("extensions", ())))


def ranges(ids: tuple[int, ...]) -> str:
    """Ascending numbers as text: ``0, 2 to 5``."""
    runs: list[list[int]] = []
    for value in ids:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
