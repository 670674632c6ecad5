"""The memory that keeps an architecture from being asked for twice, and of the classes that a search has derived."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from star.genome import BackboneGenome, Extension, LivClass, OptionPool, mutate, mutate_inside, random_genome

#: A genome over a pool is acceptable if this says so; decided from the genome alone, before anything is trained.
Admit = Callable[[BackboneGenome, OptionPool], bool]
#: A derived class can be used if this says so.
Fits = Callable[[LivClass], bool]

MUTATION_RETRIES = 8
RANDOM_RETRIES = 1000


class Archive:
    """Digests of every architecture that a search has asked for, in order, and the pool that gives them a meaning: the
    ``base`` that the search began with, and the classes that it has ``derived`` since."""

    def __init__(
        self,
        base: OptionPool,
        *,
        admit: Admit | None = None,
        fits: Fits | None = None,
        digests: Iterable[str] = (),
        derived: Iterable[LivClass] = (),
    ) -> None:
        self.base = base
        self.pool = base.extended(*derived)
        self._admit = admit
        self._fits = fits or (lambda row: True)
        self._digests = dict.fromkeys(digests)

    @property
    def digests(self) -> list[str]:
        """All digests, oldest first."""
        return list(self._digests)

    def __contains__(self, digest: object) -> bool:
        return digest in self._digests

    def __len__(self) -> int:
        return len(self._digests)

    def claim(self, genome: BackboneGenome, pool: OptionPool | None = None) -> str | None:
        """Remember the genome's architecture and return its digest; None if it is known already or not admitted.

        The genome's classes that ``pool`` has beyond the archive's become rows of this.
        """
        pool = pool or self.pool
        digest = genome.digest(pool)
        if digest in self._digests or (self._admit is not None and not self._admit(genome, pool)):
            return None
        self._digests[digest] = None
        new = sorted({segment.liv for segment in genome if segment.liv not in self.pool and not segment.is_identity})
        if new:
            self.pool = self.pool.extended(*(pool[liv] for liv in new))
        return digest

    def release(self, digest: str) -> None:
        """Forget an architecture that was claimed and is not asked for after all."""
        del self._digests[digest]

    @property
    def derived(self) -> tuple[LivClass, ...]:
        """The classes that mutations inside others have led to, oldest first."""
        return tuple(row for row in self.pool.rows if row.id not in self.base)

    def keep_derived(self, known: OptionPool, genomes: Iterable[BackboneGenome]) -> None:
        """Forget derived classes that are neither in ``known``, the pool at an earlier time, nor in ``genomes``."""
        used = {segment.liv for genome in genomes for segment in genome}
        self.pool = known.extended(*(row for row in self.pool.rows if row.id in used and row.id not in known))

    def claim_mutant(self, genome: BackboneGenome, rng: Random, mutation: float) -> tuple[BackboneGenome, str] | None:
        """Claim a mutant of ``genome`` or, while it is known, the result of mutating it further, ever more strongly.

        Every retry mutates the last attempt and doubles the probability (half of all integers at most). None if no
        attempt was new.
        """
        genome, pool = self._mutated(genome, self.pool, rng, mutation)
        for _ in range(MUTATION_RETRIES):
            if (digest := self.claim(genome, pool)) is not None:
                return genome, digest
            mutation = min(0.5, 2 * max(mutation, 0.05))
            genome, pool = self._mutated(genome, pool, rng, mutation)
        return None

    def _mutated(
        self, genome: BackboneGenome, pool: OptionPool, rng: Random, mutation: float
    ) -> tuple[BackboneGenome, OptionPool]:
        if Extension.OPERATORS in self.base.extensions:
            return mutate_inside(genome, pool, rng, mutation, base=self.base, fits=self._fits)
        return mutate(genome, pool, rng, mutation), pool

    def claim_random(self, depth: int, rng: Random) -> tuple[BackboneGenome, str] | None:
        """Claim a random genome over the base; None if a thousand draws gave nothing new: the space is exhausted."""
        for _ in range(RANDOM_RETRIES):
            genome = random_genome(self.base, depth, rng)
            if (digest := self.claim(genome)) is not None:
                return genome, digest
        return None
