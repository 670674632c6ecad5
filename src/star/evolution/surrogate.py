"""Pre-screening: breed more offspring than there are slots, and train those that a cheap model of the scores prefers.

Predictions decide what is asked for and nothing else: they never become scores.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from star.evolution.halving import promoted
from star.evolution.individual import Individual
from star.genome import BackboneGenome, Extension, LivClass, OptionPool, wiring
from star.genome.extension import FIRST_DERIVED
from star.genome.structure import ChannelMixing, Nonlinearity, Sparsity

#: The scores of a genome over a pool that need no training, None for the others.
Known = Callable[[BackboneGenome, OptionPool], Sequence[float | None]]

FEWEST = 8  # scored individuals to fit a model to
MODELS = 24  # of the ensemble
PENALTIES = (1.0, 10.0, 100.0)  # of the ridge; the one that predicts best out of bag is taken
PARTS = 4  # of the depth, in which classes are counted apart


class Screen(Protocol):
    """Chooses among offspring."""

    factor: int
    """How many are bred for each slot."""

    def choose(
        self,
        bred: Sequence[Individual],
        told: Sequence[Individual],
        population: Sequence[Individual],
        places: int,
        rng: Random,
        *,
        pool: OptionPool,
    ) -> list[Individual]:
        """``places`` of the ``bred``, in the order bred. ``told`` are all that have scores; ``pool`` has the classes of
        them all."""
        ...


class Surrogate:
    """Bagged ridge regression on features of the genome.

    Offspring are ranked by predicted front and crowding, together with the population's own scores; what is known
    without training is not predicted. ``random_share`` of the places goes to offspring drawn blindly, which keeps the
    model from deciding what it will ever learn of; of a single place it is the chance.
    """

    def __init__(
        self, pool: OptionPool, *, factor: int = 4, random_share: float = 0.25, known: Known | None = None
    ) -> None:
        self.pool = pool
        self.factor = factor
        self.random_share = random_share
        self._known = known

    def choose(
        self,
        bred: Sequence[Individual],
        told: Sequence[Individual],
        population: Sequence[Individual],
        places: int,
        rng: Random,
        *,
        pool: OptionPool | None = None,
    ) -> list[Individual]:
        """As ``Screen.choose``, ``pool`` being the surrogate's own by default; the first ``places`` while there is too
        little to fit a model to."""
        scored = [individual for individual in told if individual.scores is not None]
        if len(scored) < FEWEST or len(bred) <= places:
            return list(bred[:places])
        # Rounded up, the share of a single place would be all of it: nothing would ever be chosen.
        share = self.random_share * places
        count = math.ceil(share) if places > 1 else int(rng.random() < share)
        blind = set(rng.sample(range(len(bred)), count))
        rest = [index for index in range(len(bred)) if index not in blind]
        rows = self.predict([bred[index] for index in rest], scored, rng, pool)
        rivals = [individual.scores for individual in population if individual.scores is not None]
        best = promoted(rows.tolist(), places - len(blind), rivals)
        return [bred[index] for index in sorted(blind | {rest[row] for row in best})]

    def predict(
        self,
        individuals: Sequence[Individual],
        scored: Sequence[Individual],
        rng: Random,
        pool: OptionPool | None = None,
    ) -> NDArray[np.float64]:
        """Scores [n, m] of ``individuals``: what is known of them, and predictions for the rest."""
        pool = pool or self.pool
        features = np.array([genome_features(individual.genome, pool) for individual in scored])
        targets = np.array([individual.scores for individual in scored], dtype=np.float64)
        wanted = np.array([genome_features(individual.genome, pool) for individual in individuals])
        known = [
            self._known(individual.genome, pool) if self._known else (None,) * targets.shape[1]
            for individual in individuals
        ]
        generator = np.random.default_rng(rng.getrandbits(63))
        columns = []
        for objective in range(targets.shape[1]):
            given = [row[objective] for row in known]
            if all(value is not None for value in given):
                columns.append(np.array(given, dtype=np.float64))
            else:
                columns.append(bagged_ridge(features, targets[:, objective], wanted, generator))
        return np.stack(columns, axis=1)


def bagged_ridge(
    features: NDArray[np.float64], targets: NDArray[np.float64], wanted: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Mean prediction [n] of ridge regressions on bootstrap samples of ``features`` [m, f] and ``targets`` [m].

    Positive targets, such as perplexities, are predicted as logarithms. The penalty is that with the least error on
    what the samples leave out.
    """
    logarithmic = bool((targets > 0).all())
    y = np.log(targets) if logarithmic else targets
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    x, new = (features - mean) / scale, (wanted - mean) / scale
    centre = y.mean()
    samples = [rng.integers(len(y), size=len(y)) for _ in range(MODELS)]
    best: tuple[float, NDArray[np.float64]] | None = None
    for penalty in PENALTIES:
        errors, predictions = [], []
        for sample in samples:
            rows, values = x[sample], y[sample] - centre
            gram = rows.T @ rows + penalty * np.eye(x.shape[1])
            weights = np.linalg.solve(gram, rows.T @ values)
            left_out = np.setdiff1d(np.arange(len(y)), sample)
            errors.append((x[left_out] @ weights + centre - y[left_out]) ** 2)
            predictions.append(new @ weights + centre)
        error = float(np.concatenate(errors).mean())
        if best is None or error < best[0]:
            best = error, np.mean(predictions, axis=0)
    assert best is not None
    return np.exp(best[1]) if logarithmic else best[1]


def genome_features(genome: BackboneGenome, pool: OptionPool) -> list[float]:
    """Numbers that say what a genome builds: shares of its classes, overall and in each part of the depth by token
    mixing; followers of memoryless LIVs; what is shared, and over which distance. Where classes are derived, the means
    of what their integers say stand beside the shares of the others."""
    inside = Extension.OPERATORS in pool.extensions
    depth = genome.depth
    livs = [segment.liv for segment in genome]
    counts = Counter(livs)
    features = [counts[liv] / depth for liv in pool.ids if liv < FIRST_DERIVED or not inside]
    if inside:
        rows = np.array([class_features(pool[liv]) for liv in livs if liv in pool])
        features += rows.mean(axis=0).tolist()
    kinds = [0 if liv not in pool else int(pool[liv].operator.token_mixing) for liv in livs]
    for part in range(PARTS):
        members = kinds[part * depth // PARTS : (part + 1) * depth // PARTS]
        features += [members.count(kind) / max(1, len(members)) for kind in range(6)]
    memoryless = [liv in pool and pool[liv].memoryless for liv in livs]
    pairs = list(pairwise(memoryless))
    features += [sum(one != other for one, other in pairs) / max(1, len(pairs))]
    features += [len(counts) / depth, float(memoryless[0]), float(memoryless[-1])]
    wires = wiring(genome, pool)
    taken = [index - source for index, row in enumerate(wires.taken) for source in row.values()]
    owned = [index - owner for index, row in enumerate(wires.owners) for owner in row.values() if owner != index]
    for distances in (taken, owned):
        features += [len(distances) / depth, sum(distances) / max(1, len(distances)) / depth]
    return features


def class_features(row: LivClass) -> list[float]:
    """What the integers of a class say, for classes that were never seen: the structure of its operator, and means over
    its feature groups."""
    operator, groups = row.operator, tuple(row.featurizer)
    features = [float(operator.sparsity is value) for value in Sparsity]
    features += [float(operator.nonlinearity is value) for value in Nonlinearity]
    features += [float(operator.channel_mixing is value) for value in ChannelMixing]
    columns = [
        (
            float(group.from_input),
            float(group.token_mixing > 1),
            float(group.nonlinearity > 1),
            float(group.channel_mixing > 1),
            math.log2(group.expansion),
            math.log2(group.repeat),
        )
        for group in groups
    ]
    return features + [sum(column) / len(groups) for column in zip(*columns, strict=True)]
