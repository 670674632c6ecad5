"""Random genomes, the initial population, mutation and k-point crossover (paper 4.1, 4.2, 5).

All sampling is uniform over the valid options, with the caller's `random.Random`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from star.errors import StarError
from star.genome.backbone import BackboneGenome, Segment
from star.genome.derivation import derived
from star.genome.extension import IDENTITY
from star.genome.pool import LivClass, OptionPool
from star.genome.validity import FEATURIZER_STRATEGIES, OPTIONAL, optional_values, repair

INSIDE = 0.5  # of the mutations of a class, the share that changes one of its own integers
PATH_LABELS = 2  # enough to keep neighbouring groups apart


def random_genome(pool: OptionPool, depth: int, rng: Random) -> BackboneGenome:
    """A uniformly random valid genome: LIV classes first, then sharing within each class, then how LIVs are composed,
    where the pool has extensions. Path groups are drawn up to `PATH_LABELS`."""
    if depth < 1:
        raise StarError(f"a backbone has at least 1 LIV; depth {depth} was asked for.")
    classes = [rng.choice(pool.choices) for _ in range(depth)]
    if set(classes) == {IDENTITY}:
        classes[rng.randrange(depth)] = rng.choice(pool.ids)
    counts = Counter(classes)
    return BackboneGenome(
        tuple(
            Segment(IDENTITY)
            if liv == IDENTITY
            else Segment(
                liv,
                rng.randint(1, counts[liv]),
                rng.choice(FEATURIZER_STRATEGIES),
                rng.randint(1, counts[liv]),
                rng.randint(1, len(pool[liv].strategies)),
                **{field: rng.choice(choices) for field, choices in _optional_choices(pool, depth).items()},
            )
            for liv in classes
        )
    )


def _optional_choices(pool: OptionPool, depth: int) -> dict[str, range]:
    """What integers 6 to 8 are drawn from, for those that the pool has."""
    return {
        field: optional_values(field, min(depth, PATH_LABELS) if field == "path_group" else depth)
        for field, extension, _, _ in OPTIONAL
        if extension in pool.extensions
    }


def interleaved(mixing: int, memoryless: int | None, depth: int) -> BackboneGenome:
    """`mixing` and `memoryless` in turn, nothing shared; only `mixing` where there is no memoryless class."""
    classes = [mixing if memoryless is None or index % 2 == 0 else memoryless for index in range(depth)]
    return unconnected(classes)


def unconnected(classes: list[int]) -> BackboneGenome:
    """The canonical genome of these classes without any sharing."""
    seen: Counter[int] = Counter()
    segments = []
    for liv in classes:
        seen[liv] += 1
        segments.append(Segment(liv, seen[liv], 1, seen[liv], 1))
    return BackboneGenome(tuple(segments))


def initial_population(pool: OptionPool, depth: int, size: int, rng: Random) -> list[BackboneGenome]:
    """The population that a search starts from (paper 5): simple hybrids without special interconnections, each of one
    mixing class and the memoryless class, and random genomes; all different architectures while the pool has enough.

    The hybrids take at most half of the places; where there are more mixing classes than that, they are spread evenly.
    """
    mixing = [liv for liv in pool.ids if not pool[liv].memoryless and not pool[liv].differential]
    memoryless = next((liv for liv in pool.ids if pool[liv].memoryless and not pool[liv].differential), None)
    places = min(len(mixing), (size + 1) // 2)
    chosen = [mixing[index * len(mixing) // places] for index in range(places)]
    population: list[BackboneGenome] = []
    digests: set[str] = set()
    for genome in (interleaved(liv, memoryless, depth) for liv in chosen):
        if (digest := genome.digest(pool)) not in digests:
            digests.add(digest)
            population.append(genome)
    attempts = 0
    while len(population) < size:
        genome = random_genome(pool, depth, rng)
        digest = genome.digest(pool)
        attempts += 1
        if digest not in digests or attempts > 100 * size:
            digests.add(digest)
            population.append(genome)
    return population


def mutate(genome: BackboneGenome, pool: OptionPool, rng: Random, probability: float) -> BackboneGenome:
    """Each integer is replaced, with `probability`, by another of its valid choices; the result is repaired.

    Classes mutate first, so that sharing integers are drawn for the classes that the mutant has.
    """
    classes = [_other(segment.liv, pool.choices, rng, probability) for segment in genome]
    return _with_classes(genome, classes, pool, rng, probability)


def mutate_inside(
    genome: BackboneGenome,
    pool: OptionPool,
    rng: Random,
    probability: float,
    *,
    base: OptionPool,
    fits: Callable[[LivClass], bool] = lambda row: True,
) -> tuple[BackboneGenome, OptionPool]:
    """As `mutate`, where a class mutates in one of two ways, `INSIDE` being the share of the first: one integer of its
    operator or featurizer genome changes, to a class that `fits`; or it is replaced by a class of `base`, the pool that
    the search began with. New classes are rows of the pool that comes back, which is `pool` where there are none."""
    classes = []
    for segment in genome:
        liv = segment.liv
        if rng.random() < probability:
            inside = not segment.is_identity and rng.random() < INSIDE
            row = derived(pool[liv], rng, fits) if inside else None
            if row is None:
                liv = _other(liv, base.choices, rng, 1.0)
            else:
                pool, row = pool.adopted(row)
                liv = row.id
        classes.append(liv)
    return _with_classes(genome, classes, pool, rng, probability), pool


def _with_classes(
    genome: BackboneGenome, classes: Sequence[int], pool: OptionPool, rng: Random, probability: float
) -> BackboneGenome:
    """`genome` with these classes and its other integers mutated, repaired."""
    counts = Counter(classes)
    optional = _optional_choices(pool, genome.depth)
    segments = []
    for segment, liv in zip(genome, classes, strict=True):
        groups = range(1, counts[liv] + 1)
        strategies = range(1, len(pool[liv].strategies) + 1) if liv in pool else range(1, 2)
        segments.append(
            Segment(
                liv,
                _other(segment.featurizer_group, groups, rng, probability),
                _other(segment.featurizer_strategy, FEATURIZER_STRATEGIES, rng, probability),
                _other(segment.feature_group, groups, rng, probability),
                _other(segment.feature_strategy, strategies, rng, probability),
                **{
                    field: _other(getattr(segment, field), choices, rng, probability)
                    for field, choices in optional.items()
                },
            )
        )
    return repair(BackboneGenome(tuple(segments)), pool, rng)


def crossover(
    first: BackboneGenome, second: BackboneGenome, pool: OptionPool, rng: Random, points: int
) -> tuple[BackboneGenome, BackboneGenome]:
    """k-point crossover (A.4) at `points` different places between any two integers, on segment boundaries and inside
    segments; both children are repaired. Raises `StarError` where the parents differ in depth."""
    if first.depth != second.depth:
        raise StarError(f"crossover needs parents of one depth; these have {first.depth} and {second.depth} LIVs.")
    arity = pool.arity
    one, two = first.flat(arity), second.flat(arity)
    cuts = sorted(rng.sample(range(1, len(one)), min(points, len(one) - 1)))
    for start, stop in zip(cuts[::2], [*cuts[1::2], len(one)], strict=False):
        one[start:stop], two[start:stop] = two[start:stop], one[start:stop]
    children = (BackboneGenome.from_integers(one, arity), BackboneGenome.from_integers(two, arity))
    return repair(children[0], pool, rng), repair(children[1], pool, rng)


def _other(value: int, choices: range | tuple[int, ...], rng: Random, probability: float) -> int:
    if rng.random() >= probability:
        return value
    others = [choice for choice in choices if choice != value]
    return rng.choice(others) if others else value
