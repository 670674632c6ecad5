"""One generation trained in rungs (see ``star.evolution.halving``), and whether the rungs foretell anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from star.evolution import promoted, rank_correlation, rung_places
from star.synthesis.candidate import Candidate, Status
from star.synthesis.events import HalvingOff, RungsCompared
from star.synthesis.recipe import Recipe
from star.synthesis.session import Session


def train_in_rungs(session: Session, generation: int, population: Sequence[Candidate]) -> None:
    """Train the candidates of a generation, and stop most of them at a rung below the whole budget.

    In the first generation nobody is stopped: all are measured at every rung, which shows whether rungs foretell
    anything. ``population`` are the survivors of the generation before. Killed and started again, it goes on with the
    same decisions, because these depend on stored scores alone.
    """
    store, recipe = session.store, session.recipe
    if recipe.halving is None:
        raise ValueError("the recipe has no halving")
    pool, budgets = session.pool, recipe.rung_tokens
    places = rung_places(len(store.candidates(generation)), recipe.halving.rungs, recipe.halving.reduction)
    for rung in range(len(budgets)):
        due = [candidate for candidate in store.candidates(generation) if len(candidate.rungs) == rung]
        session.train(due, dict.fromkeys((candidate.name for candidate in due), pool), rung=rung)
        if generation > 1 and rung + 1 < len(budgets):
            _stop_the_others(session, generation, rung, places[rung + 1], population)
    session.forget_checkpoints()


def _stop_the_others(
    session: Session, generation: int, rung: int, places: int, population: Sequence[Candidate]
) -> None:
    objectives = session.recipe.search.objectives
    there = [candidate for candidate in session.store.candidates(generation) if len(candidate.rungs) > rung]
    rivals = [rung_row(candidate, rung, objectives) for candidate in population if len(candidate.rungs) > rung]
    chosen = promoted([rung_row(candidate, rung, objectives) for candidate in there], places, rivals)
    for place, candidate in enumerate(there):
        if place not in chosen and candidate.status is Status.PENDING:
            session.finish(replace(candidate, status=Status.STOPPED))
            session.forget_checkpoints(candidate)


def rung_row(candidate: Candidate, rung: int, objectives: tuple[str, ...]) -> tuple[float, ...]:
    """The scores at a rung in the recipe's order."""
    return tuple(candidate.rungs[rung].scores[objective] for objective in objectives)


def halving_works(candidates: Sequence[Candidate], recipe: Recipe) -> bool:
    """Whether the first generation, all of it trained on the whole budget, was foretold by every rung."""
    if recipe.halving is None:
        return False
    found = [compared(candidates, rung, recipe)[1] for rung in range(recipe.halving.rungs - 1)]
    return all(correlation is not None and correlation >= recipe.halving.least_correlation for correlation in found)


def compared(candidates: Sequence[Candidate], rung: int, recipe: Recipe) -> tuple[int, float | None]:
    """How many candidates have scores at a rung and after the whole budget, and the least rank correlation of the two
    over the objectives that training decides; None for too few."""
    both = [each for each in candidates if each.status is Status.DONE and len(each.rungs) > rung]
    found = [
        rank_correlation(
            [candidate.rungs[rung].scores[objective.name] for candidate in both],
            [candidate.scores[objective.name] for candidate in both],
        )
        for objective in recipe.objectives
        if objective.needs_training and not objective.timed
    ]
    known = [correlation for correlation in found if correlation is not None]
    return len(both), min(known) if known else None


def tell_rungs(session: Session, generation: int) -> None:
    """Log how well the rungs foretold a generation, and that halving ends where the first one says so."""
    recipe, candidates = session.recipe, session.store.candidates(generation)
    if recipe.halving is None:
        return
    found = []
    for rung, tokens in enumerate(recipe.rung_tokens[:-1]):
        count, correlation = compared(candidates, rung, recipe)
        found.append(correlation)
        session.listener(RungsCompared(generation, tokens, count, correlation))
    if generation == 1 and not halving_works(candidates, recipe):
        known = [correlation for correlation in found if correlation is not None]
        least = min(known) if len(known) == len(found) else None
        session.listener(HalvingOff(least, recipe.halving.least_correlation))
