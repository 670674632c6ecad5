"""`star scale` stacks and widens, tells both sizes, and names a command that builds just that."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from small_runs import Star

from star.genome import BackboneGenome, OptionPool, stack


def scaled(star: Star, *arguments: str | Path) -> dict:
    answer = star("scale", *arguments, "--json")
    assert answer.status == 0, answer.err
    return json.loads(answer.out)


def inspected(star: Star, *arguments: str | Path) -> dict:
    return json.loads(star("inspect", *arguments, "--json").out)


MOTIF = "11111 91111 12112 92121"  # canonical


def test_a_motif_is_stacked_and_widened(star: Star) -> None:
    facts = scaled(star, MOTIF, "--stack", "3", "--from-width", "64", "--width", "128", "--length", "512")
    genome = BackboneGenome.parse(MOTIF)
    assert facts["original"] == inspected(star, MOTIF, "--width", "64", "--length", "512")
    assert facts["scaled"]["genome"] == str(stack(genome, 3).canonical(OptionPool.paper()))
    assert facts["scaled"] == inspected(star, facts["scaled"]["genome"], "--width", "128", "--length", "512")
    assert facts["scaled"]["depth"] == 12


def test_stacking_multiplies_what_a_copy_costs(star: Star) -> None:
    facts = scaled(star, MOTIF, "--stack", "3", "--from-width", "64")
    final_norm = 64
    assert facts["scaled"]["parameters"] - final_norm == 3 * (facts["original"]["parameters"] - final_norm)
    assert facts["scaled"]["cache_bytes"] == 3 * facts["original"]["cache_bytes"]


def test_a_copy_of_the_transformer_is_the_deeper_transformer(star: Star) -> None:
    facts = scaled(star, "transformer++", "--depth", "8", "--stack", "3")
    assert facts["scaled"]["canonical"] == inspected(star, "transformer++", "--depth", "24")["canonical"]
    assert round(facts["scaled"]["parameters"] / 1e6) == 85


def test_residual_and_path_groups_stay_inside_each_copy(star: Star) -> None:
    motif = (
        "0.1.1.1.1 1.1.1.1.1.4.4 9.1.1.1.1.0.4 5.1.1.1.1 9.1.1.1.1.4"  # numbers that only its identity makes room for
    )
    stages = scaled(star, motif, "--stack", "2", "--from-width", "64")["scaled"]["stages"]
    assert [(stage["livs"], stage["source"]) for stage in stages] == [
        *(([0, 1], None), ([2], None), ([3], 0)),
        *(([4, 5], None), ([6], None), ([7], 3)),
    ]


def test_the_table_has_both_sizes_and_the_genome(star: Star) -> None:
    arguments = (MOTIF, "--stack", "2", "--width", "64", "--from-width", "32")
    facts, text = scaled(star, *arguments), star("scale", *arguments).out
    assert f"genome {facts['scaled']['genome']}" in text.splitlines()
    for name, width in (("original", "32"), ("scaled", "64")):
        size = facts[name]
        cells = [name, str(size["depth"]), width, f"{size['parameters']:,}", f"{size['cache_bytes']:,}"]
        assert any(line.split() == cells for line in text.splitlines())
    assert f"`{facts['train']}`" in text


def test_a_candidate_is_scaled_from_its_width_to_its_text(star: Star, finished_run: Path, text: Path) -> None:
    facts = scaled(star, f"{finished_run}:1", "--stack", "2")
    assert (facts["original"]["width"], facts["scaled"]["width"], facts["scaled"]["length"]) == (32, 32, 256)
    words = shlex.split(facts["train"])
    assert words[:3] == ["star", "train", facts["scaled"]["genome"]]
    assert dict(zip(words[3::2], words[4::2], strict=True)) == {
        "--width": "32",
        "--length": "32",
        "--data": str(text),
        "--tokenizer": "bytes",
    }


@pytest.mark.parametrize("target", ["12.1.1.1.1 91111", "finished"])
def test_the_command_it_names_trains_the_scaled_one(
    star: Star, finished_run: Path, text: Path, tmp_path: Path, target: str
) -> None:
    facts = scaled(star, f"{finished_run}:1" if target == "finished" else target, "--stack", "2", "--width", "64")
    budget = ["--tokens", "1024", "--length", "32", "--data", str(text), "--threads", "1"]
    answer = star(*shlex.split(facts["train"])[1:], *budget, "--out", tmp_path / "model")
    assert answer.status == 0, answer.err
    trained = inspected(star, tmp_path / "model")
    assert {name: trained[name] for name in ("canonical", "width", "parameters")} == {
        name: facts["scaled"][name] for name in ("canonical", "width", "parameters")
    }


def test_classes_of_a_preset_travel_as_a_file(star: Star, tmp_path: Path) -> None:
    arguments = ("striped-mamba", "--depth", "4", "--stack", "2", "--from-width", "64")
    assert scaled(star, *arguments)["train"] is None
    assert "--write-pool" in star("scale", *arguments).out
    pool = tmp_path / "mamba.toml"
    facts = scaled(star, *arguments, "--write-pool", pool)
    assert shlex.split(facts["train"])[-2:] == ["--pool", str(pool)]
    again = inspected(star, facts["scaled"]["genome"], "--pool", pool, "--width", "64")
    assert again["parameters"] == facts["scaled"]["parameters"]
    assert again["cache_bytes"] == facts["scaled"]["cache_bytes"]
    told = star("scale", facts["scaled"]["genome"], "--pool", pool, "--stack", "2", "--json").out
    assert f"--pool {pool}" in json.loads(told)["train"], "what it was given, the command has"


def test_a_pool_that_cannot_be_written_is_a_mistake(star: Star, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = star("scale", MOTIF, "--stack", "2", "--write-pool", tmp_path / "file" / "pool.toml")
    assert answer.status == 2
    assert "cannot be written" in answer.err
