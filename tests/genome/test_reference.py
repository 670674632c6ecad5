"""docs/operators.md is what the tables say, and its examples work."""

from __future__ import annotations

import re
from pathlib import Path

from star.genome import OptionPool, TokenMixing
from star.genome.meaning import GROUP_RULES, OPERATOR_RULES
from star.genome.reference import operators_markdown

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return str(found)


def test_the_page_is_generated_from_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == operators_markdown(), "run `make docs`"


def test_the_page_has_every_rule_structure_and_class() -> None:
    page = operators_markdown()
    for rule in (*OPERATOR_RULES, *GROUP_RULES):
        assert f"| {rule.what} | {rule.why} |" in page
    for row in OptionPool.paper().rows:
        assert f"| {row.id} | {row.name} |" in page
    for mixing in TokenMixing:
        assert f"| {mixing.value} | {mixing.name.lower().replace('_', ' ')} |" in page


def test_every_table_has_as_many_cells_in_each_row() -> None:
    for table in re.findall(r"(?:^\|.*\n)+", operators_markdown(), re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_the_recipe_of_the_page_loads_and_its_classes_are_searched(tmp_path: Path) -> None:
    from star.synthesis import Recipe

    (tmp_path / "own.toml").write_text(block("toml"), encoding="utf-8")
    pool = Recipe.load(tmp_path / "own.toml").pool
    assert pool.ids == (*range(1, 18), 40)
    assert (pool[40].name, pool[40].window, len(pool[40].strategies)) == ("SWA-32", 32, 4)
    assert (pool[10].name, pool[10].differential) == ("ReLU-A-Diff", True)


def test_the_python_of_the_page_builds_the_same_class() -> None:
    from star.synthesis import Recipe

    names: dict = {}
    exec(block("python"), names)
    assert names["recipe"].pool == names["pool"]
    assert names["pool"][40] == Recipe.from_toml(block("toml")).pool[40]
    assert [liv.row.name for liv in names["model"].backbone.livs] == ["SWA-32", "GMemless"]
