"""Recipes: what comes with STAR, TOML and JSON forms, overrides, and how mistakes are told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from star.errors import StarError
from star.synthesis import Recipe


@pytest.mark.parametrize("name", Recipe.names())
def test_recipes_survive_toml_and_json(name: str, tmp_path: Path) -> None:
    recipe = Recipe.load(name)
    (tmp_path / "mine.toml").write_text(recipe.to_toml())
    assert Recipe.load(tmp_path / "mine.toml") == recipe
    assert Recipe.load(str(tmp_path / "mine.toml")) == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_the_papers_recipe_has_the_papers_values() -> None:
    recipe = Recipe.load("paper-125m")
    assert (recipe.model.depth, recipe.model.width) == (24, 768)
    training = recipe.training
    assert (training.tokens, training.batch_tokens, training.warmup_tokens) == (1_300_000_000, 250_000, 130_000_000)
    assert (training.length, training.peak_learning_rate, training.weight_decay) == (4096, 8e-4, 0.1)
    assert (training.betas, training.clip, training.validation_tokens) == ((0.9, 0.95), 1.0, 500_000_000)
    search = recipe.search
    assert (search.population, search.generations, search.elites) == (16, 18, 2)
    assert (search.mutation, search.crossover_points, search.tournament) == (0.1, 2, 2)
    assert search.objectives == ("perplexity", "parameters")
    assert len(recipe.pool.ids) == 17


@pytest.mark.parametrize("name", ["demo", "extended"])
def test_small_recipes_train_at_least_forty_candidates(name: str) -> None:
    search = Recipe.load(name).search
    assert search.population + (search.generations - 1) * (search.population - search.elites) >= 40


def test_the_extended_recipe_has_the_budget_of_the_demo_and_every_choice() -> None:
    demo, extended = Recipe.load("demo"), Recipe.load("extended")
    assert demo.differences(extended) == ["model.pool", "model.extend", "search.objectives"]
    assert extended.pool.ids == tuple(range(1, 32))
    assert extended.pool.arity == 8
    assert 0 in extended.pool.choices


def test_overrides_are_checked_and_none_changes_nothing() -> None:
    demo = Recipe.load("demo")
    assert demo.override({"search.population": None}) == demo
    assert demo.override({"search.population": 8}).search.population == 8
    assert demo.override({"search.objectives": "parameters, cache_bytes@8"}).search.objectives == (
        "parameters",
        "cache_bytes@8",
    )
    with pytest.raises(StarError, match=r"search\.population"):
        demo.override({"search.population": 1})
    with pytest.raises(StarError, match="did you mean 'population'"):
        demo.override({"search.populations": 8})
    with pytest.raises(StarError, match=r"SECTION\.NAME"):
        demo.override({"population": 8})


def test_the_warmup_keeps_its_share_of_another_budget() -> None:
    demo = Recipe.load("demo")
    longer = demo.override({"training.tokens": demo.training.tokens * 5})
    assert longer.training.warmup_tokens == demo.training.warmup_tokens * 5
    assert demo.override({"training.tokens": 10**6, "training.warmup_tokens": 7}).training.warmup_tokens == 7


def test_differences_are_named() -> None:
    demo = Recipe.load("demo")
    other = demo.override({"model.width": 128, "search.seed": 5})
    assert demo.differences(other) == ["model.width", "search.seed"]
    assert demo.differences(demo) == []


def test_derived_settings() -> None:
    demo = Recipe.load("demo")
    assert demo.override({"search.objectives": "perplexity,cache_bytes@99"}).cache_length == 99
    assert demo.override({"search.objectives": "perplexity"}).cache_length == demo.training.length
    assert demo.needs_training
    assert not demo.override({"search.objectives": "parameters"}).needs_training


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[model]\ndepht = 3", "did you mean 'depth'"),
        ("[sarch]\nseed = 3", "did you mean 'search'"),
        ("[search]\nobjectives = []", "at least one objective"),
        ("[search]\nobjectives = ['perplexity', 'perplexity']", "twice"),
        ("[search]\nobjectives = ['speed']", "cache_bytes@L"),
        ("[search]\nalgorithm = 'annealing'", "nsga2"),
        ("[search]\npopulation = 4\nelites = 4", "nothing to breed"),
        ("[model]\ndepth = 8\nwidth = 8\npool = 'pond'", "there are: paper"),
        ("[model]\ndepth = 0", "model.depth"),
        ("[model", "not TOML"),
    ],
)
def test_mistakes_are_told_in_one_sentence(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(line)
    with pytest.raises(StarError, match=message) as caught:
        Recipe.load(tmp_path / "bad.toml")
    assert "bad.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_lists_those_there_are() -> None:
    with pytest.raises(StarError, match="default, demo, extended, paper-125m"):
        Recipe.load("dmeo")


def test_nothing_here_imports_torch_before_work_starts() -> None:
    check = (
        "import sys, star.synthesis as s; s.Recipe.load('demo'); s.evolve; s.compare; s.Run; s.OBJECTIVES; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
