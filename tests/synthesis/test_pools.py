"""Which classes and extensions a search draws from: by name, by file, on the command line, and for a lone genome."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from star.errors import StarError
from star.genome import BackboneGenome, OptionPool, preset
from star.synthesis import Recipe
from star.synthesis.pools import genome_pool, pool_settings, pool_toml

PROJECTION = "1.1.1.1.2.1.1"
RELU = f"""
[[classes]]
id = 40
name = "ReLU-A"
operator = "12133"
featurizer = "{PROJECTION} {PROJECTION} {PROJECTION}"
"""
ALL = ("residual", "paths", "routing", "depth")


def demo(**settings: object) -> Recipe:
    return Recipe.load("demo").override({f"model.{name}": value for name, value in settings.items()})


def written(folder: Path, text: str) -> str:
    (folder / "pool.toml").write_text(text)
    return str(folder / "pool.toml")


def test_a_recipe_names_its_pool_and_extensions() -> None:
    assert demo().pool == OptionPool.paper()
    assert demo(pool="extended").pool == OptionPool.full()
    assert demo(pool="extended", extend=ALL).pool == OptionPool.full().with_extensions(*ALL)
    assert Recipe.load("extended").pool == OptionPool.full().with_extensions(*ALL)


def test_the_pool_none_has_own_classes_alone(tmp_path: Path) -> None:
    own = demo().override(pool_settings(written(tmp_path, RELU)))
    assert own.pool.ids == (40,)
    with pytest.raises(StarError, match="nothing but own LIV classes"):
        demo(pool="none")


def test_extensions_have_one_form_however_they_are_written() -> None:
    wanted = demo(extend=("residual", "paths"))
    assert wanted.model.extend == ("residual", "paths")
    for form in ("paths, residual", ["paths", "residual", "paths"], ("residual", "paths")):
        assert demo(extend=form) == wanted
    assert demo(extend="") == demo()


def test_every_form_of_a_recipe_keeps_its_extensions() -> None:
    recipe = demo(pool="extended", extend=ALL)
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert recipe.override({"search.seed": 3}).model == recipe.model
    assert 'extend = ["residual", "paths", "routing", "depth"]' in recipe.to_toml()


def test_a_recipe_that_was_stored_without_extensions_has_none() -> None:
    stored = json.loads(demo().model_dump_json())
    del stored["model"]["extend"]
    old = Recipe.model_validate_json(json.dumps(stored))
    assert old == demo()
    assert old.differences(demo(extend="depth")) == ["model.extend"]
    assert demo(extend="depth").differences(old) == ["model.extend"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": "pond"}, "'pond' names no option pool; there are: paper, extended, none"),
        ({"extend": "wings"}, "model.extend: 'wings' names no extension; there are: residual, paths"),
        ({"extend": "routing"}, "routing chooses between paths"),
        ({"extend": [3]}, "3 is not allowed"),
        ({"extend": 3}, "3 is not allowed"),
    ],
)
def test_bad_pools_and_extensions_are_told(settings: dict, message: str) -> None:
    with pytest.raises(StarError, match=message) as caught:
        demo(**settings)
    assert "\n" not in str(caught.value)


def test_a_file_is_the_whole_pool_unless_it_names_a_base(tmp_path: Path) -> None:
    path = written(tmp_path, RELU)
    assert demo(pool="extended").override(pool_settings(path)).pool.ids == (40,)
    path = written(tmp_path, 'base = "paper"\nextend = ["depth"]\n' + RELU)
    recipe = demo().override(pool_settings(path))
    assert recipe.pool == OptionPool.paper().extended(recipe.model.classes[0]).with_extensions("depth")
    (tmp_path / "pool.toml").unlink()
    assert Recipe.from_toml(recipe.to_toml()) == recipe, "the recipe needs the file no more"


def test_extensions_of_the_recipe_stay_where_pool_and_options_say_nothing(tmp_path: Path) -> None:
    recipe, path = demo(extend="residual"), written(tmp_path, RELU)
    for pool in ("extended", path, None):
        assert recipe.override(pool_settings(pool)).model.extend == ("residual",)
        assert recipe.override(pool_settings(pool, "depth")).model.extend == ("depth",)
    path = written(tmp_path, "extend = []\n" + RELU)
    assert recipe.override(pool_settings(path)).model.extend == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing but own LIV classes"),
        ("base = 'pond'", "'pond' names no option pool"),
        ("base = 'paper'\nextend = ['wings']", "'wings' names no extension"),
        ("basis = 'paper'", "did you mean 'base'"),
        ("[[classes]]\nid = 3", "missing: name, operator, featurizer"),
        ("base", "not TOML"),
    ],
)
def test_a_bad_file_is_told_by_its_name(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StarError, match=message) as caught:
        pool_settings(written(tmp_path, text))
    assert "pool.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_neither_pool_nor_file_is_told() -> None:
    with pytest.raises(StarError, match="'pond' is neither an option pool nor a file; pools are paper, extended, none"):
        pool_settings("pond")


@pytest.mark.parametrize(
    ("genome", "pool"),
    [
        ("11111 91111", OptionPool.paper()),
        ("23.1.1.1.1 9.1.1.1.1", OptionPool.full().with_extensions(*ALL)),
        ("1.1.1.1.1.1 9.1.1.1.1.1", OptionPool.full().with_extensions(*ALL)),
        ("01111 11111", OptionPool.full().with_extensions(*ALL)),
        ("99.1.1.1.1", OptionPool.full().with_extensions(*ALL)),
    ],
)
def test_a_lone_genome_is_read_over_the_first_pool_that_has_it(genome: str, pool: OptionPool) -> None:
    assert genome_pool(BackboneGenome.parse(genome)) == pool


def test_a_lone_genome_is_read_as_it_is_asked_to(tmp_path: Path) -> None:
    paper, extended = BackboneGenome.parse("11111"), BackboneGenome.parse("18.1.1.1.1")
    assert genome_pool(paper, "extended") == OptionPool.full()
    assert genome_pool(paper, extend="paths") == OptionPool.paper().with_extensions("paths")
    assert genome_pool(extended, extend="paths") == OptionPool.full().with_extensions("paths")
    path = written(tmp_path, "extend = ['depth']\n" + RELU)
    assert genome_pool(paper, path).extensions == ("depth",)
    assert genome_pool(paper, path, "paths").extensions == ("paths",)
    with pytest.raises(StarError, match="pool 'none'"):
        genome_pool(paper, "none")


@pytest.mark.parametrize("name", ["transformer++", "striped-mamba", "deformer"])
def test_a_pool_as_a_file_gives_genomes_the_same_meaning(name: str, tmp_path: Path) -> None:
    genome, pool = preset(name, 4)
    path = written(tmp_path, pool_toml(genome, pool.with_extensions("residual")))
    again = genome_pool(genome, path)
    assert genome.digest(again) == genome.digest(pool)
    assert again.extensions == ("residual",)
