"""NSGA-2 held against pymoo's (a dev dependency) on a bi-objective problem over the same integers."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from star.evolution import NSGA2, hypervolume
from star.genome import BackboneGenome, OptionPool, repair

pymoo_nsga2 = pytest.importorskip("pymoo.algorithms.moo.nsga2")
from pymoo.core.mutation import Mutation  # noqa: E402
from pymoo.core.problem import Problem  # noqa: E402
from pymoo.operators.crossover.pntx import TwoPointCrossover  # noqa: E402
from pymoo.operators.sampling.rnd import IntegerRandomSampling  # noqa: E402
from pymoo.optimize import minimize  # noqa: E402
from scipy.stats import mannwhitneyu  # noqa: E402

POOL, DEPTH, POPULATION, ELITES, GENERATIONS, SEEDS = OptionPool.paper(), 6, 16, 2, 12, 20
UPPER = [17, DEPTH, 2, DEPTH, 6] * DEPTH
REFERENCE = (18.0 * DEPTH, 18.0 * DEPTH)


def scores(genome: BackboneGenome) -> tuple[float, float]:
    """Small classes against classes that lie far from their neighbours; sharing of weights helps the second."""
    livs = [segment.liv for segment in genome]
    gaps = sum(min(10, abs(a - b)) for a, b in pairwise(livs))
    return float(sum(livs)), 10.0 * (DEPTH - 1) - gaps + sum(segment.featurizer_strategy for segment in genome)


def ours(seed: int) -> float:
    search = NSGA2(POOL, depth=DEPTH, population_size=POPULATION, elites=ELITES, objectives=2, seed=seed)
    for _ in range(GENERATIONS):
        genomes = search.ask()
        search.tell(genomes, [scores(genome) for genome in genomes])
    return hypervolume([individual.scores or () for individual in search.population], REFERENCE)


class GenomeProblem(Problem):
    """The flat integers of a genome; what is invalid is repaired, always in the same way."""

    def __init__(self) -> None:
        super().__init__(n_var=5 * DEPTH, n_obj=2, xl=1, xu=np.array(UPPER), vtype=int)
        self.evaluations = 0

    def _evaluate(self, x: np.ndarray, out: dict[str, Any], *_: Any, **__: Any) -> None:
        self.evaluations += len(x)
        genomes = [repair(BackboneGenome.from_integers(row.tolist(), 5), POOL, random.Random(0)) for row in x]
        out["F"] = np.array([scores(genome) for genome in genomes])


class UniformMutation(Mutation):
    """Every integer is replaced with probability 10%, as in ours."""

    def _do(self, problem: Problem, x: np.ndarray, **options: Any) -> np.ndarray:
        rng = options["random_state"]
        fresh = rng.integers(1, np.array(UPPER) + 1, size=x.shape)
        return np.where(rng.random(size=x.shape) < 0.1, fresh, x)


def pymoos(seed: int) -> tuple[float, int]:
    problem = GenomeProblem()
    algorithm = pymoo_nsga2.NSGA2(
        pop_size=POPULATION,
        n_offsprings=POPULATION - ELITES,
        sampling=IntegerRandomSampling(),
        crossover=TwoPointCrossover(),
        mutation=UniformMutation(prob=1.0),
    )
    result = minimize(problem, algorithm, ("n_gen", GENERATIONS), seed=seed)
    return hypervolume(result.pop.get("F"), REFERENCE), problem.evaluations


@pytest.mark.slow
def test_nsga2_is_no_worse_than_pymoos_at_equal_evaluations() -> None:
    theirs, counts = zip(*(pymoos(seed) for seed in range(SEEDS)), strict=True)
    assert set(counts) == {POPULATION + (GENERATIONS - 1) * (POPULATION - ELITES)}
    own = [ours(seed) for seed in range(SEEDS)]
    p = mannwhitneyu(own, theirs, alternative="less").pvalue
    assert p > 0.05, f"ours {np.mean(own):.0f}, pymoo's {np.mean(theirs):.0f}"
    assert np.mean(own) > 0.98 * np.mean(theirs)
