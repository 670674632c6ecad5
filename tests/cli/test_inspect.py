"""`star inspect` tells the paper's figures, and the same for equal runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_runs import evolve_small

KEYS = {
    *("genome", "canonical", "pool", "extensions", "depth", "width", "length", "livs", "stages"),
    *("derived", "parameters", "cache_bytes"),
}


def inspected(star, *arguments: str | Path) -> dict:
    answer = star("inspect", *arguments, "--json")
    assert answer.status == 0, answer.err
    return json.loads(answer.out)


def test_transformer_has_the_size_and_cache_of_the_paper(star) -> None:
    facts = inspected(star, "transformer++", "--depth", "24", "--width", "768", "--length", "4096")
    assert facts.keys() == KEYS
    assert round(facts["parameters"] / 1e6) == 85
    assert facts["cache_bytes"] == 150_994_944


def test_striped_mamba_has_the_size_and_cache_of_the_paper(star) -> None:
    facts = inspected(star, "striped-mamba", "--depth", "24", "--width", "768", "--length", "4096")
    assert int(facts["parameters"] / 1e6) == 80
    assert round(facts["cache_bytes"] / 1e6, 1) == 25.7


@pytest.mark.parametrize(
    ("name", "billions", "low", "high"), [("transformer++", 1.2, 805, 806), ("striped-mamba", 1.1, 136, 137)]
)
def test_the_baselines_at_one_billion(star, name: str, billions: float, low: int, high: int) -> None:
    facts = inspected(star, name, "--depth", "48", "--width", "2048")
    assert round(facts["parameters"] / 1e9, 1) == billions
    assert low <= int(facts["cache_bytes"] / 1e6) <= high


def test_rows_add_up_to_the_totals(star) -> None:
    facts = inspected(star, "11111 91111 11112 92121 12.1.1.1.1", "--width", "128")
    assert [row["class"] for row in facts["livs"]] == [1, 9, 1, 9, 12]
    assert [row["index"] for row in facts["livs"]] == [0, 1, 2, 3, 4]
    final_norm = facts["width"]
    assert sum(row["parameters"] for row in facts["livs"]) + final_norm == facts["parameters"]
    assert sum(row["cache_bytes"] for row in facts["livs"]) == facts["cache_bytes"]
    assert facts["livs"][2]["sharing"] == "k from 0"


def test_the_table_shows_what_the_json_tells(star) -> None:
    arguments = ("transformer++", "--depth", "4", "--width", "64")
    facts, table = inspected(star, *arguments), star("inspect", *arguments).out
    assert max(map(len, table.splitlines())) <= 80
    assert "\x1b" not in table
    for row in facts["livs"]:
        assert any(
            line.split()[:5]
            == [str(row["index"]), str(row["class"]), row["name"], f"{row['parameters']:,}", f"{row['cache_bytes']:,}"]
            for line in table.splitlines()
        )
    assert f"{facts['parameters']:,}" in table
    assert f"{facts['cache_bytes']:,}" in table


def test_a_candidate_has_the_width_and_cache_length_of_its_run(star, finished_run: Path) -> None:
    facts = inspected(star, f"{finished_run}:1")
    assert (facts["width"], facts["length"], facts["depth"]) == (32, 256, 4)
    population = inspected(star, finished_run)["population"]
    by_name = {candidate["name"]: candidate for candidate in population}
    name = population[0]["name"]
    alone = inspected(star, f"{finished_run}:{name}")
    assert {**alone["candidate"], "on_front": by_name[name]["on_front"]} == by_name[name]
    assert alone["parameters"] == by_name[name]["parameters"] == by_name[name]["scores"]["parameters"]
    assert alone["cache_bytes"] == by_name[name]["cache_bytes"] == by_name[name]["scores"]["cache_bytes@256"]


def test_a_candidate_tells_its_parents_and_scores(star, finished_run: Path) -> None:
    from star.synthesis import Run

    with Run.open(finished_run) as run:
        child = next(candidate for candidate in run.candidates if candidate.parents)
    first = star("inspect", f"{finished_run}:{child.name}").out.splitlines()[0]
    assert first.startswith(f"candidate {child.name} of generation 2, parents {' and '.join(child.parents)}: ")
    assert f"perplexity {child.perplexity:.3f}" in first


def test_two_runs_of_one_recipe_are_equal_byte_for_byte(star, finished_run: Path, tmp_path: Path, text: Path) -> None:
    other = tmp_path / "elsewhere"
    evolve_small(other, text, "--workers", "1")
    for form in ([], ["--json"]):
        first, second = star("inspect", finished_run, *form).out, star("inspect", other, *form).out
        assert first == second
        assert "finished" in first
        assert str(finished_run) not in first


def test_a_run_shows_recipe_state_and_population(star, finished_run: Path) -> None:
    facts = inspected(star, finished_run)
    assert facts["state"] == "finished"
    assert facts["recipe"]["search"]["population"] == 4
    assert len(facts["population"]) == 4
    assert any(candidate["on_front"] for candidate in facts["population"])
    assert all(
        candidate["scores"].keys() == {"perplexity", "parameters", "cache_bytes@256"}
        for candidate in facts["population"]
    )
    table = star("inspect", finished_run).out
    assert max(map(len, table.splitlines())) <= 80
    assert "generations = 2" in table
    assert all(candidate["canonical"] in " ".join(table.split()) for candidate in facts["population"])
