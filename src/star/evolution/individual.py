"""One member of a population."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from star.genome import BackboneGenome


@dataclass(frozen=True, slots=True)
class Individual:
    """A genome, what it scored, and where it came from.

    ``scores`` has one number for each objective, all minimised; ``None`` marks an infeasible individual (its training
    failed or diverged), or one whose scores are not told yet. ``parents`` are digests, empty for a genome that was
    not bred. ``generation`` is the one that it was born in; the initial population is generation 1.
    """

    genome: BackboneGenome
    digest: str
    scores: tuple[float, ...] | None = None
    parents: tuple[str, ...] = ()
    generation: int = 1

    @property
    def feasible(self) -> bool:
        """Whether there are scores to compare."""
        return self.scores is not None

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``; ``from_json`` gives back an equal individual."""
        return {
            "genome": str(self.genome),
            "digest": self.digest,
            "scores": None if self.scores is None else list(self.scores),
            "parents": list(self.parents),
            "generation": self.generation,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Individual:
        """The inverse of ``to_json``."""
        return cls(
            genome=BackboneGenome.parse(data["genome"]),
            digest=data["digest"],
            scores=None if data["scores"] is None else tuple(float(score) for score in data["scores"]),
            parents=tuple(data["parents"]),
            generation=data["generation"],
        )


def feasible_scores(scores: Sequence[float] | None) -> tuple[float, ...] | None:
    """``scores`` as floats, or None if there are none or one of them is no finite number.

    An infinite perplexity beside a tiny parameter count would be non-dominated with infinite crowding, an elite for
    ever, so it counts as a failure.
    """
    if scores is None:
        return None
    values = tuple(float(score) for score in scores)
    return values if all(math.isfinite(value) for value in values) else None
