"""A search without barriers: one candidate is bred whenever a worker is free, and told of as soon as it is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from star.evolution import Individual, SteadyStateNSGA2
from star.genome import BackboneGenome, OptionPool
from star.synthesis.births import keep_population, newborn, not_reproducible, nothing_admitted, require_a_survivor
from star.synthesis.candidate import Candidate, Status
from star.synthesis.events import GenerationStarted
from star.synthesis.run import score_row
from star.synthesis.session import BudgetSpent, Session


class SteadySearch:
    """The course of one such search.

    Every result is stored with its place in the order of results, and every candidate with the number of results that
    it was bred after. So the calls of ``ask`` and ``tell`` that led to what is stored are known, and a run that was
    killed makes them again; what was pending then is trained before anything new is bred.
    """

    def __init__(self, session: Session, algorithm: SteadyStateNSGA2) -> None:
        self._session = session
        self._algorithm = algorithm
        self._names: dict[str, str] = {}  # of everything born, by digest
        self._queue: deque[Candidate] = deque()  # born and not yet trained
        self._generation = 0  # of the last birth
        self._ended = 0  # generations that have ended
        self._exhausted = session.store.fact("exhausted") is not None

    def run(self) -> bool:
        """Go on from what is stored to the last birth and its result; True if nothing new was left before that.

        Raises BudgetSpent, and StarError as ``evolve``.
        """
        session = self._session
        if session.recipe.needs_training and self._work_is_left():
            session.ready_corpus()  # a text that cannot be read is told before anything is announced
        self._replay()
        if session.recipe.needs_training:
            if self._work_is_left():
                session.train_each(self._supply, finish=self._finish)
        else:
            while (given := self._supply()) is not None:
                self._finish(session.untrained(given[0]))
        if self._algorithm.pending or (not self._exhausted and self._more_births()):
            raise BudgetSpent
        if self._exhausted and self._generation > self._ended:  # the last generation has fewer births than others
            session.store.put_facts(exhausted=str(self._generation))  # first, or a later start would add to it
            self._end_generation()
        return self._exhausted

    def _work_is_left(self) -> bool:
        stored = self._session.store.candidates()
        pending = any(candidate.status is Status.PENDING for candidate in stored)
        generations = self._session.recipe.search.generations
        return pending or (not self._exhausted and self._session.store.generations() < generations)

    def _more_births(self) -> bool:
        return self._algorithm.birth_generation <= self._session.recipe.search.generations

    def _replay(self) -> None:
        """Ask and tell again what the stored run has asked and told, in the same order."""
        session = self._session
        stored = session.store.candidates()
        results = deque(sorted((each for each in stored if each.ended is not None), key=lambda each: each.ended or 0))
        waiting = deque(stored)
        while waiting:
            first = waiting[0]
            while results and self._algorithm.told < (first.bred_after or 0):
                self._tell(results.popleft())
            born = [individual.digest for individual in self._asked()]
            known = [waiting.popleft() for _ in range(min(len(born), len(waiting)))]
            if not born or born != [candidate.digest for candidate in known]:
                raise not_reproducible(session.run, first.generation)
            self._born(known)
        while results:
            self._tell(results.popleft())

    def _supply(self) -> tuple[Candidate, OptionPool] | None:
        """What a free worker trains next, bred now unless something waits; after a fault of the machine only that."""
        if not self._queue and not self._exhausted and not self._session.faults and self._more_births():
            self._breed()
        return (self._queue.popleft(), self._session.pool) if self._queue else None

    def _breed(self) -> None:
        session, told = self._session, self._algorithm.told
        if born := self._asked():
            candidates = newborn(session, born, self._names, bred_after=told)
            session.store.add(candidates)
            self._born(candidates)
        elif self._names:
            self._exhausted = True
        else:
            raise nothing_admitted(session.recipe)

    def _asked(self) -> list[Individual]:
        count = len(self._algorithm.ask())
        self._session.keep_derived(self._algorithm.pool)
        return self._algorithm.pending[-count:] if count else []

    def _born(self, candidates: Sequence[Candidate]) -> None:
        self._names |= {candidate.digest: candidate.name for candidate in candidates}
        self._queue.extend(candidate for candidate in candidates if candidate.status is Status.PENDING)
        if (generation := candidates[0].generation) > self._generation:
            self._generation = generation
            self._session.listener(GenerationStarted(generation, tuple(candidates) if generation == 1 else ()))

    def _finish(self, candidate: Candidate) -> None:
        ended = replace(candidate, ended=self._algorithm.told + 1)
        self._session.finish(ended)
        self._tell(ended)

    def _tell(self, candidate: Candidate) -> None:
        row = score_row(candidate, self._session.recipe.search.objectives)
        self._algorithm.tell([BackboneGenome.parse(candidate.genome)], [row])
        while self._ended < self._algorithm.generation:
            self._end_generation()

    def _end_generation(self) -> None:
        self._ended += 1
        if self._ended == 1:  # later ones are counts of births, few of them perhaps, beside a population that lives
            require_a_survivor(self._session.store.candidates(1), 1)
        keep_population(self._session, self._algorithm, self._ended, self._names)
