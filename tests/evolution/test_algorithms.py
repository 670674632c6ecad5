"""Every search algorithm through the same door: novelty, validity, determinism, saved states, and that it searches."""

from __future__ import annotations

import json
import math
from statistics import median

import pytest

from star.errors import StarError
from star.evolution import ALGORITHMS, algorithm_class
from star.evolution.generational import Generational
from star.evolution.scalar import attraction, scaled_sums
from star.genome import BackboneGenome, OptionPool, problems

POOL = OptionPool.paper()


def score(genome: BackboneGenome) -> tuple[float, float] | None:
    """Two objectives that agree: far from class 5 is bad, sharing weights is good; class 17 at the front fails."""
    if genome.segments[0].liv == 17:
        return None
    distance = sum(abs(segment.liv - 5) for segment in genome)
    return float(distance), float(distance - sum(segment.featurizer_strategy for segment in genome))


def search_of(name: str, seed: int = 0, **options: int) -> Generational:
    return algorithm_class(name)(POOL, depth=6, seed=seed, **options)  # type: ignore[arg-type]


def run(search: Generational, generations: int) -> list[str]:
    asked = []
    for _ in range(generations):
        genomes = search.ask()
        asked += [genome.digest(POOL) for genome in genomes]
        assert all(problems(genome, POOL) == [] for genome in genomes)
        search.tell(genomes, [score(genome) for genome in genomes])
    return asked


def best(search: Generational) -> float:
    return min(sum(individual.scores) for individual in search.population if individual.scores is not None)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_nothing_is_asked_twice_and_generations_have_their_size(name: str) -> None:
    search = search_of(name, population_size=10, elites=2)
    asked = run(search, 5)
    assert len(asked) == len(set(asked)) == 10 + 4 * 8
    assert len(search.population) == 10
    assert all(individual.scores is not None for individual in search.front)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_seed_and_what_was_told_decide_the_search(name: str) -> None:
    assert run(search_of(name, 3), 4) == run(search_of(name, 3), 4)
    assert run(search_of(name, 3), 4) != run(search_of(name, 4), 4)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_saved_state_goes_on_exactly(name: str) -> None:
    whole, first = search_of(name, 5), search_of(name, 5)
    expected = run(whole, 5)
    begun = run(first, 2)
    again = algorithm_class(name).from_state(POOL, json.loads(json.dumps(first.state_dict())))
    assert begun + run(again, 3) == expected
    assert again.population == whole.population
    other = next(known for known in ALGORITHMS if known != name)
    with pytest.raises(StarError, match=name):
        algorithm_class(other).from_state(POOL, first.state_dict())


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "random"])
def test_searching_beats_drawing_at_equal_evaluations(name: str) -> None:
    results = {}
    for known in (name, "random"):
        searches = [search_of(known, seed) for seed in range(9)]
        for search in searches:
            run(search, 8)
        results[known] = median(best(search) for search in searches)
    assert results[name] < results["random"]


@pytest.mark.parametrize("name", ["nsga2", "ga", "firefly", "random"])
def test_elites_are_never_lost(name: str) -> None:
    search = search_of(name, 1)
    run(search, 1)
    for _ in range(6):
        kept = min(search.population, key=lambda individual: (individual.scores is None, individual.scores))
        run(search, 1)
        assert kept in search.population or min(i.scores for i in search.population if i.scores) <= kept.scores  # type: ignore[operator, type-var]


def test_regularised_evolution_forgets_the_oldest() -> None:
    search = search_of("regularised", population_size=10, elites=2)
    run(search, 4)
    assert min(individual.generation for individual in search.population) >= 3


def test_scaled_sums_are_footnote_6() -> None:
    from star.evolution import Individual

    genome = BackboneGenome.parse("11111")
    rows = [(10.0, 4.0), (20.0, 2.0), (15.0, 2.0), None]
    sums = scaled_sums([Individual(genome, str(index), row) for index, row in enumerate(rows)])
    assert sums == [1.0, 1.0, 0.5, float("inf")]


def test_an_unknown_algorithm_is_told_what_there_is() -> None:
    with pytest.raises(StarError, match=r"nsga2, ga, firefly, random, regularised"):
        algorithm_class("annealing")


def test_a_firefly_is_drawn_by_what_differs() -> None:
    assert attraction(1.0, 1.0, 1.0) == 0.0, "equals do not move"
    assert attraction(0.0, 0.5, 2.0) == pytest.approx(0.5 * (1 - math.exp(-2)))
    still = algorithm_class("firefly")(POOL, depth=6, attraction=0.0, mutation=0.0, seed=2)  # type: ignore[call-arg]
    again = algorithm_class("firefly").from_state(POOL, json.loads(json.dumps(still.state_dict())))
    assert vars(again)["attraction"] == 0.0
    with pytest.raises(StarError, match="attraction is 2"):
        algorithm_class("firefly")(POOL, depth=6, attraction=2)  # type: ignore[call-arg]
