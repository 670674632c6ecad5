"""Every algorithm over a pool with the extension `operators`: classes that grow with the search, and are part of it."""

from __future__ import annotations

import json
import random

import pytest

from star.evolution import ALGORITHMS, NSGA2, Individual, Surrogate, algorithm_class, rank_correlation
from star.evolution.generational import Generational
from star.genome import BackboneGenome, LivClass, OptionPool, mutate_inside, problems, random_genome
from star.genome.extension import FIRST_DERIVED

POOL = OptionPool.paper().with_extensions("operators")
OPTIONS = {"depth": 6, "population_size": 8, "objectives": 2}


def scores(genome: BackboneGenome, pool: OptionPool) -> tuple[float, float]:
    """What only the integers of classes decide: banded attention is good, and so are few groups with a nonlinearity."""
    rows = [pool[segment.liv] for segment in genome]
    plain = sum(group.nonlinearity == 1 for row in rows for group in row.featurizer)
    return 20.0 - sum(row.operator.sparsity == 2 for row in rows), 40.0 - plain


def searched(search: Generational, generations: int) -> list[str]:
    asked = []
    for _ in range(generations):
        genomes = search.ask()
        asked += [genome.digest(search.pool) for genome in genomes]
        assert all(problems(genome, search.pool) == [] for genome in genomes)
        search.tell(genomes, [scores(genome, search.pool) for genome in genomes])
    return asked


@pytest.mark.parametrize("name", ALGORITHMS)
def test_searches_go_inside_classes_after_the_first_generation(name: str) -> None:
    search = algorithm_class(name)(POOL, seed=1, **OPTIONS)
    first = searched(search, 1)
    assert search.pool == POOL, "the first population draws from the base"
    asked = [*first, *searched(search, 5)]
    assert len(set(asked)) == len(asked)
    new = [row for row in search.pool.rows if row.id not in POOL]
    assert len({row.identity for row in search.pool.rows}) == len(search.pool.rows)
    if name == "random":
        assert new == [], "random search draws from the base throughout"
    else:
        assert new
        assert any(segment.liv >= FIRST_DERIVED for each in search.population for segment in each.genome)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_saved_state_has_its_classes_and_goes_on_exactly(name: str) -> None:
    whole, part = (algorithm_class(name)(POOL, seed=3, **OPTIONS) for _ in range(2))
    expected, begun = searched(whole, 6), searched(part, 3)
    part.ask()
    state = json.loads(json.dumps(part.state_dict()))
    again = algorithm_class(name).from_state(POOL, state)
    assert again.pool == part.pool
    assert json.loads(json.dumps(again.state_dict())) == state
    assert begun + searched(again, 3) == expected
    assert again.state_dict() == whole.state_dict()
    assert again.pool == whole.pool


def test_only_classes_that_fit_and_genomes_that_are_admitted_are_asked_for() -> None:
    def fits(row: LivClass) -> bool:
        return row.memoryless

    def admit(genome: BackboneGenome, pool: OptionPool) -> bool:
        return all(not pool[segment.liv].differential for segment in genome)

    search = NSGA2(POOL, seed=2, fits=fits, admit=admit, **OPTIONS)
    searched(search, 5)
    new = [row for row in search.pool.rows if row.id not in POOL]
    assert new
    assert all(row.memoryless for row in new)
    assert not any(row.differential for row in new), "what is not admitted brings no class"


def test_a_screen_leaves_no_classes_of_what_it_does_not_choose() -> None:
    search = NSGA2(POOL, seed=4, screen=Surrogate(POOL, factor=4), **OPTIONS)
    used: set[int] = set()
    for _ in range(6):
        genomes = search.ask()
        used |= {segment.liv for genome in genomes for segment in genome}
        search.tell(genomes, [scores(genome, search.pool) for genome in genomes])
    assert {row.id for row in search.pool.rows if row.id not in POOL} <= used
    again = NSGA2(POOL, seed=4, screen=Surrogate(POOL, factor=4), **OPTIONS)
    searched(again, 6)
    assert again.state_dict() == search.state_dict()


def test_predictions_order_classes_that_were_never_seen() -> None:
    rng = random.Random(0)

    def individuals(count: int) -> tuple[list[Individual], OptionPool]:
        pool, found = POOL, []
        for _ in range(count):
            genome, pool = mutate_inside(random_genome(POOL, 6, rng), pool, rng, 0.6, base=POOL)
            found.append(Individual(genome, genome.digest(pool), scores(genome, pool)))
        return found, pool

    found, pool = individuals(180)
    predicted = Surrogate(POOL).predict(found[120:], found[:120], rng, pool)
    for objective in range(2):
        order = rank_correlation(
            predicted[:, objective], [each.scores[objective] for each in found[120:] if each.scores]
        )
        assert order is not None
        assert order > 0.5
