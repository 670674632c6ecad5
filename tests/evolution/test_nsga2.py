"""NSGA-2 through its ask/tell door: novelty, survival, infeasible candidates, determinism, saved states."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star.errors import StarError
from star.evolution import NSGA2, Individual, first_front, hypervolume, non_dominated_ranks, survivors
from star.genome import BackboneGenome, OptionPool, problems

PAPER = OptionPool.paper()
Score = Callable[[BackboneGenome], tuple[float, ...] | None]


def opposed(genome: BackboneGenome) -> tuple[float, float]:
    """Two objectives in conflict: low class ids against high ones, sharing for free."""
    ids = [segment.liv for segment in genome]
    shared = sum(segment.featurizer_strategy for segment in genome)
    return float(sum(ids) + shared), float(sum((17 - i) ** 2 for i in ids) + shared)


def sometimes_failing(genome: BackboneGenome) -> tuple[float, float] | None:
    return None if genome.segments[0].liv % 3 == 0 else opposed(genome)


def searched(search: NSGA2, score: Score, generations: int) -> list[list[BackboneGenome]]:
    asked = []
    for _ in range(generations):
        genomes = search.ask()
        asked.append(genomes)
        search.tell(genomes, [score(genome) for genome in genomes])
    return asked


def pool_of(*ids: int) -> OptionPool:
    return OptionPool("small", tuple(PAPER[i] for i in ids))


def test_population_sizes_are_the_papers() -> None:
    search = NSGA2(PAPER, depth=8, population_size=16, objectives=2, seed=1)
    asked = searched(search, opposed, 4)
    assert [len(genomes) for genomes in asked] == [16, 14, 14, 14], "two elites are carried over, not asked for again"
    assert search.generation == 4
    assert len(search.population) == 16
    assert {individual.generation for individual in search.population} <= {1, 2, 3, 4}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), depth=st.integers(1, 10), size=st.integers(2, 12))
def test_no_architecture_is_asked_for_twice_and_all_are_valid(seed: int, depth: int, size: int) -> None:
    search = NSGA2(PAPER, depth=depth, population_size=size, objectives=2, seed=seed, elites=1)
    asked = [genome for genomes in searched(search, sometimes_failing, 4) for genome in genomes]
    digests = [genome.digest(PAPER) for genome in asked]
    assert len(set(digests)) == len(digests)
    assert all(not problems(genome, PAPER) and genome.depth == depth for genome in asked)


def test_search_beats_its_first_population() -> None:
    search = NSGA2(PAPER, depth=8, objectives=2, seed=3)
    searched(search, opposed, 1)
    first = [individual.scores or () for individual in search.population]
    searched(search, opposed, 12)
    last = [individual.scores or () for individual in search.population]
    reference = [max(s[k] for s in [*first, *last]) + 1 for k in range(2)]
    assert hypervolume(last, reference) > hypervolume(first, reference)


def test_survivors_are_the_best_of_parents_and_offspring() -> None:
    search = NSGA2(PAPER, depth=4, population_size=8, objectives=2, seed=5)
    searched(search, opposed, 2)
    parents = search.population
    offspring = search.ask()
    search.tell(offspring, [opposed(genome) for genome in offspring])
    union = [(p.digest, p.scores or ()) for p in parents] + [(g.digest(PAPER), opposed(g)) for g in offspring]
    ranks = dict(zip([digest for digest, _ in union], non_dominated_ranks([s for _, s in union]), strict=True))
    kept = {individual.digest for individual in search.population}
    worst_kept = max(ranks[digest] for digest in kept)
    assert all(digest in kept for digest, rank in ranks.items() if rank < worst_kept)
    assert len(kept) == 8


def individual(name: int, scores: tuple[float, ...] | None) -> Individual:
    return Individual(BackboneGenome.parse("11111"), str(name), scores)


def test_last_front_is_thinned_by_crowding() -> None:
    line = [individual(k, (float(x), float(-x))) for k, x in enumerate([0, 1, 2, 3, 10])]
    assert {kept.digest for kept in survivors(line, 3)} == {"0", "4", "3"}, "the extremes and the loneliest"


def test_infeasible_individuals_only_fill_up() -> None:
    failed, good, dominated = individual(0, None), individual(1, (1.0, 1.0)), individual(2, (9.0, 9.0))
    assert [kept.digest for kept in survivors([failed, dominated, good], 2)] == ["1", "2"]
    assert [kept.digest for kept in survivors([failed, good], 2)] == ["1", "0"]
    assert first_front([failed, dominated, good]) == [good]
    assert first_front([failed]) == []


@pytest.mark.parametrize("broken", [None, (math.nan, 1.0), (math.inf, 1.0), (1.0, -math.inf)])
def test_failed_candidates_never_enter_a_front(broken: tuple[float, ...] | None) -> None:
    search = NSGA2(PAPER, depth=4, population_size=6, objectives=2, seed=2)
    genomes = search.ask()
    search.tell(genomes, [broken, *[opposed(genome) for genome in genomes[1:]]])
    assert genomes[0] not in [member.genome for member in search.front]
    assert next(member for member in search.population if member.genome == genomes[0]).scores is None
    assert search.population[-1].genome == genomes[0]


def test_a_generation_of_failures_only_still_goes_on() -> None:
    search = NSGA2(PAPER, depth=4, population_size=6, objectives=2, seed=2)
    searched(search, lambda genome: None, 2)
    assert search.front == []
    assert len(search.ask()) == 4


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), order=st.randoms(use_true_random=False))
def test_order_and_portions_of_telling_do_not_matter(seed: int, order: random.Random) -> None:
    whole = NSGA2(PAPER, depth=5, population_size=8, objectives=2, seed=seed)
    portions = NSGA2(PAPER, depth=5, population_size=8, objectives=2, seed=seed)
    for _ in range(3):
        genomes = whole.ask()
        whole.tell(genomes, [sometimes_failing(genome) for genome in genomes])
        shuffled = portions.ask()
        assert shuffled == genomes
        order.shuffle(shuffled)
        for genome in shuffled:
            assert portions.ask() == genomes, "asking again before the end changes nothing"
            portions.tell([genome], [sometimes_failing(genome)])
    assert portions.population == whole.population


def test_seed_decides_the_course() -> None:
    def course(seed: int) -> list[list[BackboneGenome]]:
        return searched(NSGA2(PAPER, depth=6, objectives=2, seed=seed), opposed, 3)

    assert course(7) == course(7)
    assert course(7) != course(8)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), generations=st.integers(0, 3), told=st.integers(0, 5))
def test_a_saved_state_continues_exactly(seed: int, generations: int, told: int) -> None:
    original = NSGA2(PAPER, depth=5, population_size=8, objectives=2, seed=seed)
    searched(original, sometimes_failing, generations)
    part = original.ask()[:told]
    original.tell(part, [sometimes_failing(genome) for genome in part])

    restored = NSGA2.from_state(PAPER, json.loads(json.dumps(original.state_dict())))
    assert restored.state_dict() == original.state_dict()
    for search in (original, restored):
        rest = search.ask()[told:]
        search.tell(rest, [sometimes_failing(genome) for genome in rest])
    assert searched(original, sometimes_failing, 2) == searched(restored, sometimes_failing, 2)
    assert original.population == restored.population


def test_parents_are_recorded() -> None:
    search = NSGA2(PAPER, depth=8, objectives=2, seed=1)
    first = search.ask()
    assert all(born.parents == () for born in search.pending)
    search.tell(first, [opposed(genome) for genome in first])
    parents = {member.digest for member in search.population}
    search.ask()
    assert all(set(born.parents) <= parents for born in search.pending)
    assert sum(len(born.parents) == 2 for born in search.pending) >= 7


def test_a_small_space_is_asked_in_full_and_then_ends() -> None:
    search = NSGA2(pool_of(1, 9), depth=1, population_size=4, objectives=1, seed=0)
    genomes = search.ask()
    assert sorted(genome.segments[0].liv for genome in genomes) == [1, 9]
    search.tell(genomes, [[1.0], [2.0]])
    assert search.ask() == []
    assert len(search.population) == 2


def test_refused_genomes_are_never_asked_for() -> None:
    def without_attention(genome: BackboneGenome, pool: OptionPool) -> bool:
        return all(segment.liv not in (1, 2, 3, 4, 10, 11, 12, 13) for segment in genome)

    search = NSGA2(PAPER, depth=4, population_size=8, objectives=2, seed=4, admit=without_attention)
    asked = [genome for genomes in searched(search, opposed, 3) for genome in genomes]
    assert len(asked) == 8 + 6 + 6
    assert all(without_attention(genome, PAPER) for genome in asked)


def test_the_first_scores_decide_the_number_of_objectives() -> None:
    search = NSGA2(PAPER, depth=4, population_size=4)
    genomes = search.ask()
    with pytest.raises(StarError, match=r"2 score\(s\); this search has 3"):
        search.tell(genomes, [(1.0, 2.0, 3.0), (1.0, 2.0), None, None])
    search.tell(genomes, [None, (1.0, 2.0), (2.0, 1.0), None])
    assert len(search.front) == 2
    with pytest.raises(StarError, match="this search has 2"):
        search.tell(search.ask()[:1], [(1.0,)])


def test_mistakes_in_telling_are_refused() -> None:
    search = NSGA2(PAPER, depth=4, population_size=4, objectives=2, seed=4)
    genomes = search.ask()
    with pytest.raises(StarError, match="one row each"):
        search.tell(genomes, [(1.0, 1.0)])
    with pytest.raises(StarError, match=r"1 score\(s\); this search has 2"):
        search.tell(genomes[:1], [(1.0,)])
    with pytest.raises(StarError, match="not waiting"):
        search.tell([BackboneGenome.parse("11111")], [(1.0, 1.0)])
    search.tell(genomes[:1], [(1.0, 1.0)])
    with pytest.raises(StarError, match="not waiting"):
        search.tell(genomes[:1], [(1.0, 1.0)])
    with pytest.raises(StarError, match="not waiting"):
        search.tell(genomes[1:2] * 2, [(1.0, 1.0)] * 2)


@pytest.mark.parametrize(
    "setting", [{"depth": 0}, {"population_size": 1}, {"mutation": 1.5}, {"elites": 16}, {"tournament": 0}]
)
def test_impossible_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(StarError, match=next(iter(setting))):
        NSGA2(PAPER, **{"depth": 4, "objectives": 2, **setting})  # type: ignore[arg-type]


def test_no_torch() -> None:
    import subprocess
    import sys

    check = "import star.evolution, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
