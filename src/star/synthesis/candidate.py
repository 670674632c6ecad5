"""What is kept of one candidate."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Status(enum.StrEnum):
    """Where a candidate stands. All but pending are final: it is not trained again."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"  # at a rung of halving: it has no scores, and no place in a population


@dataclass(frozen=True)
class Rung:
    """What a candidate scored after a part of its training. Comparable only with others at the same tokens."""

    tokens: int
    scores: dict[str, float]


@dataclass(frozen=True)
class Candidate:
    """One architecture in a run, and what became of it; baselines are kept in the same form."""

    name: str
    """``"7"`` for candidate 7, or the preset's name for a baseline."""
    genome: str
    """As evolved: what crossover and mutation work on."""
    canonical: str
    """The same architecture in canonical form: what is trained."""
    digest: str
    seed: int
    """Of the initial weights."""
    parents: tuple[str, ...] = ()
    """Names of the candidates that it was bred from; empty in the initial population and for random newcomers."""
    generation: int = 0
    """The generation that it was born in, from 1; 0 for baselines."""
    status: Status = Status.PENDING
    parameters: int = 0
    """Trainable, without embeddings."""
    cache_bytes: int = 0
    """At ``Recipe.cache_length`` tokens."""
    scores: dict[str, float] = field(default_factory=dict)
    """By objective, and by what constraints name; the static ones are there from the start, the others when it is done.
    """
    violated: tuple[str, ...] = ()
    """The constraints that its scores break: it is done, and infeasible, so in no front."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What its trial measured: perplexity, loss (nats a token), bits_per_byte."""
    curve: tuple[tuple[int, float], ...] = ()
    """(tokens consumed, training loss in nats) of every step."""
    rungs: tuple[Rung, ...] = ()
    """The rungs of halving that it has reached below the whole budget."""
    tokens: int = 0
    """Trained in all, decays that led nowhere included."""
    inherited_tokens: int = 0
    """The most training behind any of the weights that it began with; 0 for one that was trained from scratch."""
    failure: str | None = None
    """Why it failed, in one line."""
    seconds: float | None = None
    """Wall time of its trial."""
    bred_after: int | None = None
    """In steady state: how many results the search had heard when it bred this one; else None."""
    ended: int | None = None
    """In steady state: its place, from 1, in the order in which results came; else None."""

    @property
    def id(self) -> int | None:
        """The number of a candidate, from 1 in the order asked; None for a baseline."""
        return int(self.name) if self.name.isdigit() else None

    @property
    def lineage_tokens(self) -> int:
        """The most training behind any of its weights: its own tokens and what it inherited."""
        return self.tokens + self.inherited_tokens

    @property
    def perplexity(self) -> float | None:
        """Perplexity on held-out tokens; None until trained."""
        return self.metrics.get("perplexity")
