"""The front of a run beside the baselines: differences, and whether a candidate beats each of them."""

from __future__ import annotations

from dataclasses import dataclass

from star.errors import StarError
from star.genome import PRESETS
from star.synthesis import Candidate, Recipe, Run, Status


@dataclass(frozen=True)
class Difference:
    """A candidate relative to a baseline: -0.1 is a tenth less. None where one of them was not measured."""

    perplexity: float | None
    parameters: float | None
    cache_bytes: float | None


@dataclass(frozen=True)
class Verdict:
    """Which candidates of the front beat one baseline, by name."""

    baseline: Candidate
    dominating: tuple[Candidate, ...]
    """Nowhere worse in the run's objectives, and better in one."""
    better_and_smaller: tuple[Candidate, ...]
    """Better perplexity with fewer parameters."""

    @property
    def winners(self) -> tuple[Candidate, ...]:
        """Either of the two, best perplexity first."""
        both = {candidate.name: candidate for candidate in (*self.dominating, *self.better_and_smaller)}
        return tuple(sorted(both.values(), key=lambda candidate: (candidate.perplexity or 0.0, candidate.parameters)))


@dataclass(frozen=True)
class Comparison:
    """Everything that `star compare` shows. The front stands in the order of `Run.front`."""

    recipe: Recipe
    front: tuple[Candidate, ...]
    baselines: tuple[Candidate, ...]
    verdicts: tuple[Verdict, ...]


def comparison(run: Run) -> Comparison:
    """Compare the front of `run` with the baselines that `star.synthesis.compare` has trained.

    Raises StarError where a baseline is missing or no generation has ended.
    """
    front = require_front(run)
    found = run.baselines
    missing = [name for name in PRESETS if name not in found or found[name].status is Status.PENDING]
    if missing:
        raise StarError(
            f"the run {str(run.path)!r} lacks the baselines {', '.join(missing)}; `star compare` trains them"
        )
    baselines = tuple(found[name] for name in PRESETS)
    return Comparison(run.recipe, front, baselines, tuple(judge(front, baseline, run.recipe) for baseline in baselines))


def require_front(run: Run) -> tuple[Candidate, ...]:
    """The front of `run`; StarError where no generation has ended."""
    front = tuple(run.front)
    if not front:
        raise StarError(f"the run {str(run.path)!r} has no population yet; continue it with `star evolve` first")
    return front


def judge(front: tuple[Candidate, ...], baseline: Candidate, recipe: Recipe) -> Verdict:
    """Which candidates of `front` beat `baseline`; none where it failed, since nothing was measured then."""
    if baseline.status is not Status.DONE:
        return Verdict(baseline, (), ())
    names = recipe.search.objectives
    return Verdict(
        baseline,
        tuple(candidate for candidate in front if _dominates(candidate, baseline, names)),
        tuple(
            candidate
            for candidate in front
            if candidate.perplexity is not None
            and baseline.perplexity is not None
            and candidate.perplexity < baseline.perplexity
            and candidate.parameters < baseline.parameters
        ),
    )


def difference(candidate: Candidate, baseline: Candidate) -> Difference:
    """`candidate` relative to `baseline`."""
    return Difference(
        _change(candidate.perplexity, baseline.perplexity),
        _change(candidate.parameters, baseline.parameters),
        _change(candidate.cache_bytes, baseline.cache_bytes),
    )


def sentence(verdict: Verdict) -> str:
    """The verdict in words."""
    name, winners = verdict.baseline.name, verdict.winners
    if verdict.baseline.status is not Status.DONE:
        return f"{name} failed ({verdict.baseline.failure}), so there is nothing to compare with."
    if not winners:
        return (
            f"No candidate beats {name}: none is at least as good in every objective, "
            "nor better in perplexity with fewer parameters."
        )
    best = winners[0]
    change = difference(best, verdict.baseline)
    parts = [
        f"{label} {percent(value)} %"
        for label, value in (
            ("perplexity", change.perplexity),
            ("parameters", change.parameters),
            ("cache", change.cache_bytes),
        )
        if value is not None
    ]
    claims = {
        "in every objective": verdict.dominating,
        "in perplexity with fewer parameters": verdict.better_and_smaller,
    }
    ways = [f"by {_listing(candidates)} {way}" for way, candidates in claims.items() if candidates]
    if verdict.dominating == verdict.better_and_smaller:
        ways = [f"by {_listing(winners)} {' and '.join(claims)}"]
    return f"{name} is beaten {' and '.join(ways)}; candidate {best.name} has {', '.join(parts)}."


def _listing(candidates: tuple[Candidate, ...]) -> str:
    names = [candidate.name for candidate in candidates]
    return f"candidate {names[0]}" if len(names) == 1 else f"candidates {', '.join(names[:-1])} and {names[-1]}"


def _dominates(candidate: Candidate, baseline: Candidate, objectives: tuple[str, ...]) -> bool:
    ours = [candidate.scores[name] for name in objectives]
    theirs = [baseline.scores[name] for name in objectives]
    return all(a <= b for a, b in zip(ours, theirs, strict=True)) and ours != theirs


def _change(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else value / base - 1


def percent(change: float | None) -> str:
    """0.123 as ``+12.3``, with fewer digits where it is large, and never −100 for what is not nothing."""
    if change is None:
        return "–"
    value = 100 * change
    digits = 0 if abs(value) >= 999.5 else 2 if -100 < value <= -99.95 else 1
    return f"{max(value, -99.99) if value > -100 else value:+.{digits}f}".replace("-", "−")
