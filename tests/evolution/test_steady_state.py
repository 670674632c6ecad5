"""Steady-state NSGA-2: ask whenever a worker is free, tell in any order; what survives, and what decides the course."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star.errors import StarError
from star.evolution import (
    Individual,
    Mode,
    SteadyStateNSGA2,
    Surrogate,
    algorithm_class,
    non_dominated_ranks,
    survivors,
)
from star.genome import BackboneGenome, OptionPool, problems

PAPER = OptionPool.paper()
SEEDS = st.integers(0, 10**6)
Score = Callable[[BackboneGenome], tuple[float, ...] | None]
Step = tuple[list[Individual], Individual, list[Individual]]


def rough(genome: BackboneGenome) -> tuple[float, ...] | None:
    """Two opposed objectives of few values, so that fronts are small; one in nine fails."""
    ids = [segment.liv for segment in genome]
    if sum(ids) % 9 == 0:
        return None
    return float(sum(ids) // len(ids)), float(sum((17 - i) ** 2 for i in ids) // (40 * len(ids)))


def total(genome: BackboneGenome) -> tuple[float, ...]:
    return (float(sum((segment.liv - 5) ** 2 for segment in genome)),)


def course(search: SteadyStateNSGA2, score: Score, births: int, workers: int, rng: random.Random) -> list[Step]:
    """So many ``workers`` of random speed: population before, who was told, population after."""
    steps: list[Step] = []
    queue = search.ask()
    asked, running = len(queue), []
    while True:
        while len(running) < workers:
            if not queue and asked < births:
                queue = search.ask()
                asked += len(queue)
            if not queue:
                break
            running.append(queue.pop(0))
        if not running:
            return steps
        genome = running.pop(rng.randrange(len(running)))
        before = search.population
        search.tell([genome], [score(genome)])
        told = Individual(genome, genome.digest(PAPER), score(genome))
        steps.append((before, told, search.population))


def steady(seed: int, **options: Any) -> SteadyStateNSGA2:
    return SteadyStateNSGA2(PAPER, **{"depth": 4, "population_size": 8, "seed": seed, **options})


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, workers=st.integers(1, 12), size=st.integers(2, 10), rng=st.randoms(use_true_random=False))
def test_each_result_leaves_the_best_of_population_and_newcomer(
    seed: int, workers: int, size: int, rng: random.Random
) -> None:
    search = steady(seed, population_size=size, elites=1)
    steps = course(search, rough, 40, workers, rng)
    assert len(steps) == 40
    told: list[str] = []
    for before, newcomer, after in steps:
        told.append(newcomer.digest)
        expected = survivors([*before, newcomer], size)
        assert [each.digest for each in after] == [each.digest for each in expected]
        assert len(after) == min(size, len(told))
    assert len(set(told)) == len(told), "no architecture is asked for twice"


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, workers=st.integers(1, 6), rng=st.randoms(use_true_random=False))
def test_while_fronts_fit_the_front_is_that_of_everything_told(seed: int, workers: int, rng: random.Random) -> None:
    search = steady(seed)
    told: list[Individual] = []
    for _, newcomer, after in course(search, rough, 50, workers, rng):
        told.append(newcomer)
        scored = [each for each in told if each.scores is not None]
        if not scored:
            continue
        best = [e for e, rank in zip(scored, non_dominated_ranks([e.scores for e in scored]), strict=True) if rank == 0]
        if len(best) > search.population_size:  # from here on crowding decides
            return
        ranks = non_dominated_ranks([each.scores for each in after if each.scores is not None])
        assert {each.digest for each, rank in zip(after, ranks, strict=False) if rank == 0} == {
            each.digest for each in best
        }
        for objective in range(2):
            assert min(each.scores[objective] for each in after if each.scores) == min(
                each.scores[objective] for each in scored if each.scores
            )
        feasible = sum(each.feasible for each in after)
        assert feasible == min(len(scored), search.population_size), "a failed one only fills up"


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, workers=st.integers(1, 6), rng=st.randoms(use_true_random=False))
def test_with_one_objective_the_best_of_everything_told_survive(seed: int, workers: int, rng: random.Random) -> None:
    told: list[float] = []
    for _, newcomer, after in course(steady(seed), total, 40, workers, rng):
        told += newcomer.scores or ()
        assert sorted(score for each in after for score in each.scores or ()) == sorted(told)[:8]


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, told=st.integers(0, 30), running=st.integers(0, 4), screened=st.booleans())
def test_a_saved_state_continues_exactly(seed: int, told: int, running: int, screened: bool) -> None:
    screen = Surrogate(PAPER, factor=3) if screened else None
    original = steady(seed, screen=screen)
    course(original, rough, told, 1, random.Random(0))
    for _ in range(running):
        original.ask()
    restored = SteadyStateNSGA2.from_state(PAPER, json.loads(json.dumps(original.state_dict())), screen=screen)
    assert restored.state_dict() == original.state_dict()
    late = [individual.genome for individual in original.pending]
    for search in (original, restored):
        search.tell(late[::-1], [rough(genome) for genome in late[::-1]])
    ends = [course(search, rough, 10, 3, random.Random(1)) for search in (original, restored)]
    assert ends[0] == ends[1]
    assert original.state_dict() == restored.state_dict()


def test_seed_and_order_decide_the_course() -> None:
    def result(seed: int, order: int) -> list[str]:
        return [newcomer.digest for _, newcomer, _ in course(steady(seed), rough, 40, 3, random.Random(order))]

    assert result(1, 1) == result(1, 1)
    assert set(result(1, 1)) != set(result(2, 1))
    assert set(result(1, 1)) != set(result(1, 2)), "who finishes first decides what is bred"


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, elites=st.integers(0, 7), workers=st.integers(1, 5), rng=st.randoms(use_true_random=False))
def test_generations_count_births_and_end_with_their_last_result(
    seed: int, elites: int, workers: int, rng: random.Random
) -> None:
    search = steady(seed, elites=elites)
    births = 8 + 3 * (8 - elites)
    born: dict[str, int] = {}
    told: set[str] = set()

    def score(genome: BackboneGenome) -> tuple[float, ...] | None:
        born.update({each.digest: each.generation for each in search.pending})
        if (digest := genome.digest(PAPER)) in told:
            return rough(genome)
        left = {generation for each, generation in born.items() if each not in told}
        assert search.generation < min(left)
        told.add(digest)
        return rough(genome)

    course(search, score, births, workers, rng)
    assert Counter(born.values()) == {1: 8} | dict.fromkeys((2, 3, 4), 8 - elites)
    assert search.generation == 4
    assert search.birth_generation == 5
    assert search.told == births


def test_children_have_parents_in_the_population_while_others_are_pending() -> None:
    search = steady(3)
    first = search.ask()
    assert len(first) == 8
    search.tell(first[2:5], [rough(genome) for genome in first[2:5]])
    known = {individual.digest for individual in search.population}
    (child,) = search.ask()
    assert set(search.pending[-1].parents) <= known
    assert search.pending[-1].parents
    assert [each.genome for each in search.pending] == [*first[:2], *first[5:], child]
    assert problems(child, PAPER) == []


def test_a_worker_without_a_population_gets_a_random_newcomer() -> None:
    search = steady(3)
    search.ask()
    search.ask()
    assert search.pending[-1].parents == ()
    assert search.pending[-1].generation == 2


def test_a_small_space_is_asked_in_full_and_then_ends() -> None:
    search = SteadyStateNSGA2(OptionPool("small", (PAPER[1], PAPER[9])), depth=1, population_size=4, seed=0)
    genomes = search.ask()
    assert len(genomes) == 2
    search.tell(genomes, [[1.0], [2.0]])
    assert search.ask() == []
    assert search.generation == 1


def test_a_single_place_is_screened_and_blind_at_times() -> None:
    class Counted(Surrogate):
        predictions = 0

        def predict(self, *arguments: Any) -> Any:
            self.predictions += 1
            return super().predict(*arguments)

    screen = Counted(PAPER, factor=3, random_share=0.25)
    course(steady(5, screen=screen), rough, 8 + 40, 1, random.Random(0))
    assert 20 <= screen.predictions < 40


def test_mistakes_are_refused() -> None:
    search = steady(4)
    genomes = search.ask()
    search.tell(genomes[:1], [(1.0, 1.0)])
    for again in (genomes[:1], [*genomes[1:2], *genomes[1:2]], [BackboneGenome.parse("11111")]):
        with pytest.raises(StarError, match="not waiting"):
            search.tell(again, [(1.0, 1.0)] * len(again))
    with pytest.raises(StarError, match=r"1 score\(s\); this search has 2"):
        search.tell(genomes[1:3], [(1.0, 1.0), (1.0,)])
    assert search.told == 1, "what is refused is not told in part"
    assert algorithm_class("nsga2", Mode.STEADY_STATE) is SteadyStateNSGA2
    with pytest.raises(StarError, match="'ga' searches in generations only"):
        algorithm_class("ga", Mode.STEADY_STATE)
