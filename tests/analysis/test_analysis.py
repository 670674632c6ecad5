"""Lineage, composition and motifs, by hand and against scipy."""

from __future__ import annotations

import random

import pytest

from star.analysis import composition, connections, enriched_motifs, lineage
from star.analysis.motifs import fisher
from star.errors import StarError
from star.genome import BackboneGenome, OptionPool, random_genome
from star.synthesis import Candidate

POOL = OptionPool.paper()


def parsed(*texts: str) -> list[BackboneGenome]:
    return [BackboneGenome.parse(text) for text in texts]


def test_connections_are_pairs_of_livs_and_distance_is_what_lies_between() -> None:
    genome = BackboneGenome.parse("11114 91111 11214 92121 11212")
    found = {(each.sharing.value, each.source, each.target): each for each in connections(genome, POOL)}
    assert set(found) == {(kind, 0, target) for kind in ("features", "weights") for target in (2, 4)}
    assert found["weights", 0, 4].groups == ("q", "v")
    assert found["features", 0, 2].distance == 1
    assert found["features", 0, 2].groups == ("k", "v")
    assert found["features", 0, 4].groups == ("k",)
    assert found["features", 0, 4].distance == 3


def test_composition_is_a_mean_over_backbones() -> None:
    found = composition(parsed("11111 91111", "11111 11112"), POOL)
    assert found.classes == {"SA-1": 1.5, "GMemless": 0.5}
    assert found.connections == {"weights": 0.0, "features": 0.5}
    assert found.distances == {"weights": None, "features": 0.0}
    assert composition([], POOL).classes == {}


def test_fisher_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = random.Random(0)
    for _ in range(200):
        n, m = rng.randint(1, 15), rng.randint(1, 15)
        one, two = rng.randint(0, n), rng.randint(0, m)
        expected = stats.fisher_exact([[one, n - one], [two, m - two]], alternative="greater").pvalue
        assert fisher(one, n, two, m) == pytest.approx(expected)


def test_a_planted_motif_is_found_and_chance_is_not() -> None:
    rng = random.Random(7)
    initial = [random_genome(POOL, 8, rng) for _ in range(30)]
    selected = [random_genome(POOL, 8, rng) for _ in range(12)]
    planted = parsed("71111 31111 91111")[0].segments
    selected = [BackboneGenome((*genome.segments[:5], *planted)) for genome in selected]
    first, *others = enriched_motifs(selected, initial, POOL)
    assert set(first.classes) <= {"GConv-1", "SA-3", "GMemless"}
    assert first.selected == 1.0
    assert first.q < 0.001
    assert first.enrichment > 5
    significant = [motif for motif in [first, *others] if motif.q < 0.05]
    assert ("GConv-1", "SA-3", "GMemless") in [motif.classes for motif in significant]
    assert all({"GConv-1", "SA-3", "GMemless"} & set(motif.classes) for motif in significant)
    same = enriched_motifs(initial, initial, POOL)
    assert all(motif.q > 0.05 for motif in same)
    assert enriched_motifs([], initial, POOL) == []


def test_q_is_benjamini_and_hochbergs() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = random.Random(1)
    found = enriched_motifs(
        [random_genome(POOL, 5, rng) for _ in range(40)], [random_genome(POOL, 5, rng) for _ in range(40)], POOL
    )
    expected = stats.false_discovery_control([motif.p for motif in found])
    assert [motif.q for motif in found] == pytest.approx(list(expected))


def born(name: str, genome: str, generation: int, *parents: str) -> Candidate:
    return Candidate(name, genome, genome, name, 0, parents=parents, generation=generation)


def test_a_lineage_has_every_ancestor_once_the_youngest_first() -> None:
    family = [
        born("1", "11111 91111", 1),
        born("2", "71111 91111", 1),
        born("3", "11111 11111", 1),
        born("4", "71111 91111", 2, "1", "2"),
        born("5", "11111 71111", 2, "1"),
        born("6", "71111 71111", 3, "4", "5"),
    ]
    found = lineage(family, "6")
    assert [each.candidate.name for each in found] == ["6", "4", "5", "1", "2"]
    assert found[0].changed == {"4": 1, "5": 1}
    assert found[1].changed == {"1": 1, "2": 0}
    with pytest.raises(StarError, match="1 to 6"):
        lineage(family, "7")
