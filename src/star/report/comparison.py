"""The front of a run beside the baselines: differences, and whether a candidate beats each of them."""

from __future__ import annotations

from dataclasses import dataclass

from star.errors import StarError
from star.genome import BASELINES
from star.synthesis import Candidate, Recipe, Run, Status
from star.synthesis.run import require_front


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


@dataclass(frozen=True)
class Comparison:
    """Everything that `star compare` shows. The front stands in the order of `Run.front`."""

    recipe: Recipe
    front: tuple[Candidate, ...]
    baselines: tuple[Candidate, ...]
    verdicts: tuple[Verdict, ...]


def comparison(run: Run) -> Comparison:
    """Compare the front of `run` with the baselines that `star.synthesis.compare` has trained.

    Raises StarError where a baseline is missing or there is no front.
    """
    front = require_front(run)
    found = run.baselines
    missing = [name for name in BASELINES if name not in found or found[name].status is Status.PENDING]
    if missing:
        raise StarError(
            f"the run {str(run.path)!r} lacks the baselines {', '.join(missing)}; `star compare` trains them"
        )
    baselines = tuple(found[name] for name in BASELINES)
    return Comparison(run.recipe, front, baselines, tuple(judge(front, baseline, run.recipe) for baseline in baselines))


def judge(front: tuple[Candidate, ...], baseline: Candidate, recipe: Recipe) -> Verdict:
    """Which candidates of `front` beat `baseline`; none where it failed, since nothing was measured then."""
    if baseline.status is not Status.DONE:
        return Verdict(baseline, ())
    names = recipe.search.objectives
    return Verdict(baseline, tuple(candidate for candidate in front if _dominates(candidate, baseline, names)))


def difference(candidate: Candidate, baseline: Candidate) -> Difference:
    """`candidate` relative to `baseline`."""
    return Difference(
        _change(candidate.perplexity, baseline.perplexity),
        _change(candidate.parameters, baseline.parameters),
        _change(candidate.cache_bytes, baseline.cache_bytes),
    )


def sentence(verdict: Verdict, recipe: Recipe) -> str:
    """Whether the front beats a baseline in the objectives of the run, in words; the cache is a remark beside them."""
    baseline, winners = verdict.baseline, verdict.dominating
    if baseline.status is not Status.DONE:
        return f"{baseline.name} failed ({baseline.failure}), so there is nothing to compare with."
    names = recipe.search.objectives
    if not winners:
        return f"No candidate beats {baseline.name} in every objective ({', '.join(names)})."
    best = min(winners, key=lambda candidate: [candidate.scores[name] for name in names])
    parts = [
        f"{name} {percent(best.scores[name] / baseline.scores[name] - 1 if baseline.scores[name] else None)} %"
        for name in names
    ]
    numbers = [candidate.name for candidate in winners]
    who = f"candidate {numbers[0]}" if len(numbers) == 1 else f"candidates {', '.join(numbers[:-1])} and {numbers[-1]}"
    text = f"{baseline.name} is beaten in every objective by {who}; candidate {best.name} has {', '.join(parts)}"
    if any(name.startswith("cache_bytes") for name in names):
        return f"{text}."
    return f"{text} (and, which was no objective, cache {percent(difference(best, baseline).cache_bytes)} %)."


def inheritance_note(front: tuple[Candidate, ...], recipe: Recipe) -> str | None:
    """In words, that candidates began with weights of others and baselines did not; None where nothing is inherited."""
    if recipe.inheritance is None:
        return None
    fact = "Candidates begin with trained weights of their parents, the baselines from scratch"
    if not front:
        return f"{fact}."
    own, most = max(each.tokens for each in front), max(each.lineage_tokens for each in front)
    return (
        f"{fact}: on the front, candidates were trained on up to {own:,} tokens themselves, and on up to {most:,} with "
        "what they inherited."
    )


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
