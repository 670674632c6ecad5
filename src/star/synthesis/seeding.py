"""The front of one run as the beginning of another search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from star.genome import BackboneGenome, LivClass, OptionPool
from star.genome.extension import FIRST_DERIVED
from star.synthesis.recipe import Recipe
from star.synthesis.run import Run, require_front


def seeded(recipe: Recipe, run: Run) -> Recipe:
    """``recipe`` beginning with the genomes of the front of ``run``, as they were evolved.

    Their classes that no pool comes with, own or derived ones, become own classes of the recipe. A class that its pool
    has already is that row; one whose id is taken gets the next free id from 1001 on. Raises StarError where the run
    has no front, or where its genomes do not fit the recipe.
    """
    genomes = [BackboneGenome.parse(candidate.genome) for candidate in require_front(run)]
    brought = {row.id: row for row in (*run.recipe.model.classes, *run.derived)}
    used = sorted({segment.liv for genome in genomes for segment in genome} & brought.keys())
    pool, numbers = recipe.pool, {}
    for liv in used:
        pool, numbers[liv] = _with_class(pool, brought[liv])
    known = {row.id for row in recipe.pool.rows}
    added = tuple(row for row in pool.rows if row.id not in known)
    settings: dict[str, Any] = {"search.initial": tuple(str(_renumbered(genome, numbers)) for genome in genomes)}
    if added:
        settings["model.classes"] = (*recipe.model.classes, *added)
    return recipe.override(settings)


def _with_class(pool: OptionPool, row: LivClass) -> tuple[OptionPool, int]:
    for known in pool.rows:
        if (known.identity, known.strategies) == (row.identity, row.strategies):
            return pool, known.id
    liv = row.id if row.id not in pool else max(FIRST_DERIVED - 1, *pool.ids) + 1
    name = row.name if all(known.name != row.name for known in pool.rows) else f"{row.name} ({liv})"
    return pool.extended(replace(row, id=liv, name=name)), liv


def _renumbered(genome: BackboneGenome, numbers: Mapping[int, int]) -> BackboneGenome:
    return BackboneGenome(tuple(replace(segment, liv=numbers.get(segment.liv, segment.liv)) for segment in genome))
