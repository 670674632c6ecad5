"""Own LIV classes in a recipe: from TOML and Python, checked at once, kept by every form of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star.errors import StarError
from star.genome import FeaturizerGenome, LivClass, OperatorGenome, OptionPool
from star.synthesis import ModelRecipe, Recipe

PROJECTION = "1.1.1.1.2.1.1"
ATTENTION = f"{PROJECTION} {PROJECTION} {PROJECTION}"
SWA = {
    "id": 18,
    "name": "SWA",
    "operator": "12223",
    "featurizer": ATTENTION,
    "strategies": [["k"], ["v"], ["k", "v"]],
    "window": 32,
}
RELU = {"id": 19, "name": "ReLU-A", "operator": "12133", "featurizer": ATTENTION}

TOML = f"""
[model]
depth = 4
width = 32
pool = "paper"

[[model.classes]]
id = 18
name = "SWA"
operator = "12223"
featurizer = "{ATTENTION}"
strategies = [["k"], ["v"], ["k", "v"]]
window = 32

[[model.classes]]
id = 19
name = "ReLU-A"
operator = "12133"
featurizer = "{ATTENTION}"

[training]
tokens = 4096
batch_tokens = 1024
warmup_tokens = 1024
length = 32
validation_tokens = 1024
"""


def recipe(*classes: Any) -> Recipe:
    return Recipe.load("demo").override({"model.classes": classes})


def test_a_recipe_adds_classes_to_the_pool(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(TOML)
    pool = Recipe.load(tmp_path / "own.toml").pool
    assert pool.ids == (*OptionPool.paper().ids, 18, 19)
    assert (pool[18].name, pool[18].window) == ("SWA", 32)
    assert pool[18].operator == OperatorGenome.parse("12223")
    assert pool[18].strategies == ((), ("k",), ("v",), ("k", "v"))
    assert pool[19].strategies == ((),)


def test_a_class_with_the_id_of_a_row_takes_its_place() -> None:
    pool = recipe({**SWA, "id": 1}).pool
    assert pool.ids == OptionPool.paper().ids
    assert pool[1].name == "SWA"
    assert pool[2] == OptionPool.paper()[2]


def test_python_takes_livclass_and_plain_data_alike() -> None:
    featurizer, operator = FeaturizerGenome.parse(ATTENTION), OperatorGenome.parse("12223")
    row = LivClass(18, "SWA", operator, featurizer, ((), ("k",), ("v",), ("k", "v")), window=32)
    assert recipe(row) == recipe(SWA)
    assert ModelRecipe(depth=2, width=32, classes=(row, RELU)).classes[0] is row


def test_every_form_of_a_recipe_keeps_its_classes() -> None:
    own = recipe(SWA, {**RELU, "name": 'a "quoted" \\ name \x7f 🙂', "differential": True})
    assert Recipe.from_toml(own.to_toml()) == own
    assert Recipe.model_validate_json(own.model_dump_json()) == own
    assert own.override({"search.seed": 3}).model == own.model
    assert own.pool.digest == Recipe.from_toml(own.to_toml()).pool.digest


def test_a_recipe_without_own_classes_says_nothing_of_them() -> None:
    assert "classes" not in Recipe.load("demo").to_toml()


def test_other_classes_are_another_recipe() -> None:
    assert recipe(SWA).differences(recipe({**SWA, "window": 16})) == ["model.classes"]
    assert recipe(SWA).differences(Recipe.load("demo")) == ["model.classes"]
    assert recipe(SWA).differences(recipe(SWA)) == []


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no meaning": (lambda: recipe({**SWA, "operator": "13223"}), "'SWA'.*Toeplitz structure"),
    "strategy": (lambda: recipe({**SWA, "strategies": [["B"]]}), "'SWA'.*subsets of q, k, v"),
    "genome": (lambda: recipe({**SWA, "operator": "99"}), "'SWA'.*not 5 non-negative integers"),
    "missing": (lambda: recipe({"id": 18, "name": "SWA"}), "'SWA'.*missing: operator, featurizer"),
    "unknown": (lambda: recipe({**SWA, "windows": 3}), "'SWA'.*unknown: windows"),
    "type": (lambda: recipe({**SWA, "differential": "no"}), "'SWA' has differential = 'no'; it must be true or false"),
    "whole": (lambda: recipe({**SWA, "window": 1.5}), "'SWA' has window = 1.5; it must be a whole number"),
    "text": (lambda: recipe("SWA"), "'SWA' is no LIV class"),
    "twice": (lambda: recipe(SWA, {**RELU, "id": 18}), "SWA, ReLU-A all have id 18"),
    "width": (lambda: recipe(SWA).override({"model.width": 12}), "'SWA'.*width 12"),
    "heads": (
        lambda: recipe({**SWA, "featurizer": f"{PROJECTION} 1.1.1.1.2.1.5 1.1.1.1.2.1.5"}),
        "LIV class 'SWA'.*repeated 5 times",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_class_is_refused_by_name_with_the_reason(name: str) -> None:
    build, message = BAD[name]
    with pytest.raises(StarError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12))
def test_any_name_survives_toml(name: str) -> None:
    own = recipe({**RELU, "name": name})
    assert Recipe.from_toml(own.to_toml()) == own
