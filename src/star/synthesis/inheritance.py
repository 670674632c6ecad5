"""What a child takes over of its parents' trained weights: the rule, as pure functions. Imports no torch.

A *stage* (one LIV, or parallel ones, with their norm and their router) is what is inherited. It comes from a parent
that has the same stage at the same place, built and connected alike; see docs/interpretation.md.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from star.genome import BackboneGenome, LivClass, OptionPool, stages, wiring
from star.synthesis.candidate import Candidate, Status

WEIGHTS = "weights"  # the folder of a run that holds those of possible parents


@dataclass(frozen=True)
class Parent:
    """A trained parent: its canonical genome, and the file of its weights."""

    name: str
    genome: str
    weights: Path


@dataclass(frozen=True)
class Heritage:
    """What a candidate may begin with, as a message to a worker: its trained parents, the first one first."""

    parents: tuple[Parent, ...]


def heritage(child: Candidate, parents: Sequence[Candidate], run: Path) -> Heritage | None:
    """The heritage of ``child`` in the directory ``run``; None for a newcomer, and where all of its parents failed."""
    trained = trained_parents(child, parents)
    if not trained:
        return None
    return Heritage(tuple(Parent(each.name, each.canonical, weights_file(run, each.name)) for each in trained))


def trained_parents(child: Candidate, parents: Sequence[Candidate]) -> list[Candidate]:
    """Those of ``parents`` that ``child`` was bred from and that have been trained to the end, the first one first."""
    by_name = {parent.name: parent for parent in parents}
    return [by_name[name] for name in child.parents if by_name[name].status is Status.DONE]


def weights_file(run: Path, name: str) -> Path:
    """Where a candidate keeps its trained weights."""
    return run / WEIGHTS / f"{name}.safetensors"


def inherited(child: BackboneGenome, parents: Sequence[BackboneGenome], pool: OptionPool) -> tuple[int | None, ...]:
    """For each stage of ``child`` the index of the parent that its weights come from, None where they are fresh.

    The genomes are canonical: what is trained. A parent can give a stage if it has one of the same LIVs (by position),
    of classes of the same meaning, with the same sharing, residual source and routing; and if it can give all stages
    that this one takes features or weights from. Stages that share with each other, however indirectly, all come from
    one parent, or are fresh: from the one that can give most of their LIVs, the first one of equals.
    """
    own = _built(child, pool)
    givable = [_givable(own, _built(parent, pool)) for parent in parents]
    answer: list[int | None] = [None] * len(own)
    for group in _groups(own):
        given = [sum(len(own[number].livs) for number in group & possible) for possible in givable]
        best = max(range(len(given)), key=given.__getitem__, default=None)  # the first of equals
        if best is not None:
            for number in group & givable[best]:
                answer[number] = best
    return tuple(answer)


def inherited_tokens(child: Candidate, parents: Sequence[Candidate], pool: OptionPool) -> int:
    """The most training behind any of the weights that ``child`` begins with, in tokens; 0 for a newcomer."""
    trained = trained_parents(child, parents)
    genomes = [BackboneGenome.parse(parent.canonical) for parent in trained]
    givers = {0, *(source for source in inherited(BackboneGenome.parse(child.canonical), genomes, pool) if source)}
    return max((trained[index].lineage_tokens for index in givers if trained), default=0)


def inherited_share(child: BackboneGenome, sources: Sequence[int | None], parameters: Sequence[int]) -> float:
    """The share of the parameters of ``child`` in stages with a source; ``parameters`` has a number for each LIV."""
    given = [
        parameters[index]
        for stage, source in zip(stages(child.without_identities()), sources, strict=True)
        if source is not None
        for index in stage.livs
    ]
    return sum(given) / max(1, sum(parameters))


def kept_names(survivors: Collection[str], generation: int, candidates: Sequence[Candidate]) -> set[str]:
    """Who may still become a parent after ``generation``, or is one of a candidate that waits: of these the weights are
    kept. ``survivors`` are the population; whoever was born later, or waits to be trained, is not judged yet."""
    later = [each for each in candidates if each.generation > generation or each.status is Status.PENDING]
    waiting = [each for each in candidates if each.status is Status.PENDING]
    return {*survivors, *(each.name for each in later), *(parent for each in waiting for parent in each.parents)}


@dataclass(frozen=True)
class _Stage:
    """A stage with all that decides what its weights mean."""

    livs: tuple[int, ...]
    classes: tuple[tuple[Any, ...], ...]
    shares: tuple[tuple[dict[str, int], dict[str, int]], ...]
    """Of each LIV: group → LIV whose tensor it takes, group → LIV that owns the weights."""
    source: tuple[int, ...] | None
    """The LIVs of the stage that the residual comes from."""
    routing: int
    needs: frozenset[int]
    """The earlier stages that features or weights are taken from."""


def _built(genome: BackboneGenome, pool: OptionPool) -> list[_Stage]:
    genome = genome.without_identities()
    composed, wires = stages(genome), wiring(genome, pool)
    stage_of = {index: number for number, stage in enumerate(composed) for index in stage.livs}
    found = []
    for number, stage in enumerate(composed):
        shares = tuple((wires.taken[index], wires.owners[index]) for index in stage.livs)
        sources = {stage_of[index] for rows in shares for row in rows for index in row.values()}
        found.append(
            _Stage(
                stage.livs,
                tuple(_meaning(pool[genome.segments[index].liv]) for index in stage.livs),
                shares,
                None if stage.source is None else composed[stage.source].livs,
                int(stage.routing),
                frozenset(sources - {number}),
            )
        )
    return found


def _meaning(row: LivClass) -> tuple[Any, ...]:
    """All that fixes the network of a LIV class; not its numbers and names, nor the sharing that it could have."""
    operator = row.operator
    structure = (operator.token_mixing, operator.sparsity, operator.nonlinearity, operator.channel_mixing)
    return structure, row.featurizer, row.differential, row.reach, row.state_space if row.state_spaces else None


def _givable(own: Sequence[_Stage], others: Sequence[_Stage]) -> set[int]:
    """The numbers of the child's stages that a parent made of ``others`` can give."""
    at = {stage.livs: stage for stage in others}
    possible: set[int] = set()
    for number, stage in enumerate(own):  # sources come first, so they are decided already
        other = at.get(stage.livs)
        if other is not None and _alike(stage, other) and stage.needs <= possible:
            possible.add(number)
    return possible


def _alike(one: _Stage, other: _Stage) -> bool:
    """Whether two stages at one place have the same weights to learn, for the same use. The numbers of the stages that
    they need may differ: ``shares`` says by LIVs what these are."""
    return (one.classes, one.shares, one.source, one.routing) == (
        other.classes,
        other.shares,
        other.source,
        other.routing,
    )


def _groups(own: Sequence[_Stage]) -> list[set[int]]:
    """The stages that share with each other, directly or by way of others."""
    found: list[set[int]] = []
    for number, stage in enumerate(own):
        linked = [group for group in found if group & stage.needs]
        found = [group for group in found if group not in linked]
        found.append({number}.union(*linked))
    return sorted(found, key=min)
