"""`star inspect` shows how LIVs are composed, and reads a genome over the pool that it needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

PROJECTION = "1.1.1.1.2.1.1"
#: Attention beside an MLP, mixed; an identity; a recurrence; an MLP that also reads the output of the first two.
COMPOSED = "1.1.1.1.1.1.1.2 9.1.1.1.1.0.1 0.1.1.1.1 5.1.1.1.1 9.1.1.1.1.1"
#: The same without what the identity and the mixer need.
RESIDUAL = "1.1.1.1.1.1 5.1.1.1.1 9.1.1.1.1.1"


def inspected(star, genome: str, *options: str) -> dict:
    answer = star("inspect", genome, "--width", "64", "--json", *options)
    assert answer.status == 0, answer.err
    return json.loads(answer.out)


def test_residual_groups_are_stages_with_a_source(star) -> None:
    facts = inspected(star, RESIDUAL)
    assert facts["stages"] == [
        {"livs": [0], "source": None, "routing": "sum"},
        {"livs": [1], "source": None, "routing": "sum"},
        {"livs": [2], "source": 0, "routing": "sum"},
    ]
    rows = star("inspect", RESIDUAL, "--width", "64").out.splitlines()
    assert any(row.split()[:4] == ["LIV", "stage", "class", "name"] for row in rows)
    assert any(row.split()[:4] == ["2", "2", "9", "GMemless"] and "+ output of stage 0" in row for row in rows)


def test_paths_routing_and_identities_are_told(star) -> None:
    facts = inspected(star, COMPOSED)
    assert facts["depth"] == 5
    assert [row["class"] for row in facts["livs"]] == [1, 9, 5, 9]
    assert facts["stages"] == [
        {"livs": [0, 1], "source": None, "routing": "mixer"},
        {"livs": [2], "source": None, "routing": "sum"},
        {"livs": [3], "source": 0, "routing": "sum"},
    ]
    assert facts["extensions"] == ["residual", "paths", "routing", "depth"]
    text = " ".join(star("inspect", COMPOSED, "--width", "64").out.split())
    assert "4 LIVs and 1 identity of pool extended" in text
    assert "beside LIV 1; mixer routing" in text
    assert "beside LIV 0" in text


def test_liquid_routing_is_named(star) -> None:
    text = star("inspect", "1.1.1.1.1.0.1.3 9.1.1.1.1.0.1", "--width", "64").out
    assert "liquid routing" in " ".join(text.split())


def test_a_plain_genome_has_a_stage_for_each_liv_and_no_column_for_them(star) -> None:
    facts = inspected(star, "11111 91111")
    assert (facts["pool"], facts["extensions"]) == ("paper", [])
    assert [stage["livs"] for stage in facts["stages"]] == [[0], [1]]
    assert "stage" not in star("inspect", "11111 91111", "--width", "64").out


@pytest.mark.parametrize("target", ["23.1.1.1.1 9.1.1.1.1", "deformer", "deformer-only"])
def test_classes_beyond_the_papers_need_no_option(star, target: str) -> None:
    facts = inspected(star, target)
    assert facts["livs"][0]["name"] == "Deformer-1"


def test_the_pool_of_a_genome_can_be_chosen(star, tmp_path: Path) -> None:
    pool = tmp_path / "pool.toml"
    pool.write_text(
        "[[classes]]\nid = 1\nname = 'ReLU-A'\noperator = '12133'\n"
        f"featurizer = '{PROJECTION} {PROJECTION} {PROJECTION}'\n"
    )
    facts = inspected(star, "11111", "--pool", str(pool))
    assert (facts["pool"], facts["livs"][0]["name"]) == ("own", "ReLU-A")
    answer = star("inspect", "11111 91111", "--pool", pool)
    assert answer.status == 2
    assert "class 9 is not in pool 'own' (it has 1)" in answer.err
    assert inspected(star, RESIDUAL, "--pool", "paper", "--extend", "residual")["pool"] == "paper"
    assert inspected(star, "11111", "--extend", "paths")["extensions"] == ["paths"]
