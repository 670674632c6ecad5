"""The memory that keeps an architecture from being asked for twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from star.genome import BackboneGenome, OptionPool, mutate, random_genome

#: A genome is acceptable if this says so; decided from the genome alone, before anything is trained.
Admit = Callable[[BackboneGenome], bool]

MUTATION_RETRIES = 8
RANDOM_RETRIES = 1000


class Archive:
    """Digests of every architecture that a search has asked for, in order."""

    def __init__(self, pool: OptionPool, *, admit: Admit | None = None, digests: Iterable[str] = ()) -> None:
        self.pool = pool
        self._admit = admit
        self._digests = dict.fromkeys(digests)

    @property
    def digests(self) -> list[str]:
        """All digests, oldest first."""
        return list(self._digests)

    def __contains__(self, digest: object) -> bool:
        return digest in self._digests

    def __len__(self) -> int:
        return len(self._digests)

    def claim(self, genome: BackboneGenome) -> str | None:
        """Remember the genome's architecture and return its digest; None if it is known already or not admitted."""
        digest = genome.digest(self.pool)
        if digest in self._digests or (self._admit is not None and not self._admit(genome)):
            return None
        self._digests[digest] = None
        return digest

    def release(self, digest: str) -> None:
        """Forget an architecture that was claimed and is not asked for after all."""
        del self._digests[digest]

    def claim_near(self, genome: BackboneGenome, rng: Random, mutation: float) -> tuple[BackboneGenome, str] | None:
        """Claim ``genome`` or, while it is known, the result of mutating it further, ever more strongly.

        Every retry mutates the last attempt and doubles the probability (half of all integers at most). None if no
        attempt was new.
        """
        for _ in range(MUTATION_RETRIES):
            if (digest := self.claim(genome)) is not None:
                return genome, digest
            mutation = min(0.5, 2 * max(mutation, 0.05))
            genome = mutate(genome, self.pool, rng, mutation)
        return None

    def claim_random(self, depth: int, rng: Random) -> tuple[BackboneGenome, str] | None:
        """Claim a random genome; None if a thousand draws gave nothing new: the space is exhausted."""
        for _ in range(RANDOM_RETRIES):
            genome = random_genome(self.pool, depth, rng)
            if (digest := self.claim(genome)) is not None:
                return genome, digest
        return None
