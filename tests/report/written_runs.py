"""Runs written straight into a store: everything that a report can meet, without any training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

from star.genome import BackboneGenome, OptionPool, preset, random_genome
from star.lm import analyse
from star.synthesis import Candidate, Recipe, Status
from star.synthesis.store import Store

OBJECTIVES = ("perplexity", "cache_bytes@4096")
COMPOSED = OptionPool.full().with_extensions("residual", "paths", "routing", "depth")
FAILURE = "diverged: the loss is <nan> & more"


def recipe(objectives: tuple[str, ...] = OBJECTIVES, generations: int = 3) -> Recipe:
    changes = {"search.objectives": objectives, "search.population": 6, "search.generations": generations}
    return Recipe.load("demo").override({**changes, "model.depth": 6, "model.width": 64})


def trained(candidate: Candidate, recipe: Recipe, rng: Random, quality: float) -> Candidate:
    """`candidate` as if it had been trained to a perplexity near `quality`."""
    perplexity = quality * rng.uniform(0.9, 1.1)
    facts = {"perplexity": perplexity, "parameters": candidate.parameters, "cache_bytes@4096": candidate.cache_bytes}
    return replace(
        candidate,
        status=Status.DONE,
        metrics={"perplexity": perplexity, "loss": 1.0},
        scores={name: float(facts[name]) for name in recipe.search.objectives},
        curve=tuple((2048 * step, 5.5 / step**0.5 + rng.random() / 5) for step in range(1, 49)),
    )


def sized(candidate: Candidate, pool: OptionPool) -> Candidate:
    cost = analyse(BackboneGenome.parse(candidate.canonical), pool, width=64, length=4096)
    return replace(candidate, parameters=cost.parameters, cache_bytes=cost.cache_bytes)


def write_run(path: Path, recipe: Recipe, *, ended: int, baselines: bool) -> Path:
    """A run of `ended` generations of six, the fourth candidate of each failed; survivors are the last six trained."""
    rng, pool = Random(7), recipe.pool
    with Store.create(path) as store:
        store.put_facts(recipe=recipe.model_dump_json(), corpus_description="a book <i>: 3 documents")
        survivors: list[Candidate] = []
        number = 0
        for generation in range(1, ended + 1):
            born = []
            for _ in range(6):
                number += 1
                genome = random_genome(pool, 6, rng).canonical(pool)
                parents = tuple(parent.name for parent in survivors[:2])
                born.append(
                    sized(
                        Candidate(
                            str(number), str(genome), str(genome), genome.digest(pool), number, parents, generation
                        ),
                        pool,
                    )
                )
            store.add(born)
            done = [
                replace(candidate, status=Status.FAILED, failure=FAILURE)
                if place == 3
                else trained(candidate, recipe, rng, 20.0 / generation**0.3)
                for place, candidate in enumerate(born)
            ]
            for candidate in done:
                store.finish(candidate)
            good = [candidate for candidate in done if candidate.status is Status.DONE]
            survivors = [*good, *survivors][:6]
            store.set_population(generation, [candidate.name for candidate in survivors])
        for name in ("transformer++", "striped-mamba") if baselines else ():
            genome, own = preset(name, 6)
            baseline = sized(Candidate(name, str(genome), str(genome), genome.digest(own), 0), own)
            store.add([baseline])
            store.finish(trained(baseline, recipe, rng, 17.0))
    return path


def write_composed_run(path: Path, recipe: Recipe, genomes: list[str]) -> Path:
    """A run of one generation: these genomes over the pool `COMPOSED`, none of which dominates another."""
    rng = Random(7)
    with Store.create(path) as store:
        store.put_facts(recipe=recipe.model_dump_json(), corpus_description="a book")
        for number, text in enumerate(genomes, start=1):
            genome = BackboneGenome.parse(text).canonical(COMPOSED)
            born = Candidate(
                str(number), text, str(genome), genome.digest(COMPOSED), number, (), 1,
                parameters=1000 * number, cache_bytes=100 * number,
            )  # fmt: skip
            store.add([born])
            store.finish(trained(born, recipe, rng, 100.0 / 2**number))
        store.set_population(1, [str(number) for number in range(1, len(genomes) + 1)])
    return path
