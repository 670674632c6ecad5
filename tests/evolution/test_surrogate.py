"""Pre-screening: what it predicts, what it leaves alone, and that it helps at equal evaluations."""

from __future__ import annotations

import json
import random
from statistics import mean

import numpy as np
import pytest

from star.evolution import ALGORITHMS, NSGA2, Individual, Surrogate, algorithm_class, hypervolume, rank_correlation
from star.evolution.surrogate import bagged_ridge, genome_features
from star.genome import BackboneGenome, OptionPool, random_genome

POOL, DEPTH = OptionPool.paper(), 6


def scores(genome: BackboneGenome) -> tuple[float, float] | None:
    """Something like perplexity, and something like size; class 17 at the front fails."""
    if genome.segments[0].liv == 17:
        return None
    mixing = sum(segment.liv in (1, 2, 5) for segment in genome)
    return 10.0 + (mixing - 3) ** 2 + sum(abs(s.liv - 5) for s in genome) / 4, float(sum(s.liv for s in genome))


def size(genome: BackboneGenome, pool: OptionPool) -> tuple[None, float]:
    return None, float(sum(segment.liv for segment in genome))


def searched(seed: int, screen: Surrogate | None, generations: int = 7, algorithm: type = NSGA2) -> NSGA2:
    search = algorithm(POOL, depth=DEPTH, population_size=12, objectives=2, seed=seed, screen=screen)
    for _ in range(generations):
        genomes = search.ask()
        search.tell(genomes, [scores(genome) for genome in genomes])
    return search  # type: ignore[no-any-return]


def volume(search: NSGA2) -> float:
    return hypervolume([i.scores for i in search.population if i.scores is not None], [60.0, 102.0])


def test_predictions_order_what_was_never_seen() -> None:
    rng = random.Random(1)
    genomes = [random_genome(POOL, DEPTH, rng) for _ in range(220)]
    told = [Individual(g, g.digest(POOL), s) for g in genomes if (s := scores(g)) is not None]
    predicted = Surrogate(POOL).predict(told[150:], told[:150], rng)
    for objective in range(2):
        found = rank_correlation(predicted[:, objective], [i.scores[objective] for i in told[150:] if i.scores])
        assert found is not None
        assert found > 0.6


def test_what_is_known_is_not_predicted() -> None:
    rng = random.Random(1)
    genomes = [random_genome(POOL, DEPTH, rng) for _ in range(40)]
    told = [Individual(g, g.digest(POOL), s) for g in genomes if (s := scores(g)) is not None]
    predicted = Surrogate(POOL, known=size).predict(told, told, rng)
    assert predicted[:, 1].tolist() == [individual.scores[1] for individual in told if individual.scores]


def test_a_line_is_learnt_and_positive_targets_stay_positive() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    found = bagged_ridge(x[:40], x[:40] @ [1.0, -2.0, 0.5], x[40:], rng)
    assert np.corrcoef(found, x[40:] @ [1.0, -2.0, 0.5])[0, 1] > 0.99
    assert (bagged_ridge(x[:40], np.exp(x[:40, 0]), 10 * x[40:], rng) > 0).all()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_nothing_is_asked_twice_scores_are_told_ones_and_the_seed_decides(name: str) -> None:
    runs = [searched(4, Surrogate(POOL, known=size), 4, algorithm_class(name)) for _ in range(2)]
    assert runs[0].state_dict() == runs[1].state_dict()
    asked = runs[0].state_dict()["seen"]
    assert len(asked) == len(set(asked)) == 12 + 3 * 10, "what was bred and not chosen is forgotten"
    assert all(individual.scores == scores(individual.genome) for individual in runs[0].population)


def test_a_saved_state_goes_on_exactly() -> None:
    whole, part = searched(5, Surrogate(POOL), 5), searched(5, Surrogate(POOL), 3)
    again = NSGA2.from_state(POOL, json.loads(json.dumps(part.state_dict())), screen=Surrogate(POOL))
    for _ in range(2):
        genomes = again.ask()
        again.tell(genomes, [scores(genome) for genome in genomes])
    assert again.state_dict() == whole.state_dict()


def test_a_share_of_the_places_is_drawn_blindly() -> None:
    rng = random.Random(2)
    genomes = [random_genome(POOL, DEPTH, rng) for _ in range(60)]
    told = [Individual(g, g.digest(POOL), s) for g in genomes if (s := scores(g)) is not None]
    bred = [Individual(g, g.digest(POOL)) for g in (random_genome(POOL, DEPTH, rng) for _ in range(40))]

    def chosen(share: float, seed: int) -> set[str]:
        surrogate = Surrogate(POOL, random_share=share)
        found = surrogate.choose(bred, told, told[:8], 10, random.Random(seed))
        assert len(found) == 10
        return {individual.digest for individual in found}

    assert len(set.intersection(*(chosen(0.0, seed) for seed in range(4)))) >= 5, "a model has an opinion"
    assert len(set.intersection(*(chosen(1.0, seed) for seed in range(4)))) <= 2
    few = Surrogate(POOL).choose(bred, told[:5], [], 10, random.Random(0))
    assert few == bred[:10], "too little to learn from"


def test_screening_helps_at_equal_evaluations() -> None:
    plain = [volume(searched(seed, None)) for seed in range(6)]
    screened = [volume(searched(seed, Surrogate(POOL, known=size))) for seed in range(6)]
    assert mean(screened) > mean(plain)


def test_features_have_one_length() -> None:
    rng = random.Random(0)
    lengths = {len(genome_features(random_genome(POOL, depth, rng), POOL)) for depth in (1, 2, 5, 24)}
    assert len(lengths) == 1
