from __future__ import annotations

import subprocess
import sys

import pytest

from star.data import DataRecipe
from star.errors import StarError
from star.validation import CheckedModel


def test_defaults_need_nothing_from_the_user() -> None:
    recipe = DataRecipe()
    assert (recipe.source, recipe.tokenizer, recipe.text_field) == ("python-stdlib", "bytes", "text")
    assert recipe.validation_fraction == 0.05


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:257", "bpe:4096", "some/tokenizer.json"])
def test_tokenizers_that_exist_are_accepted(tokenizer: str) -> None:
    assert DataRecipe(tokenizer=tokenizer).tokenizer == tokenizer


@pytest.mark.parametrize(
    "tokenizer", ["", "gpt2", "bpe", "bpe:", "bpe:256", "bpe:-5", "bpe:4k", "bpe:²", "bpe:9999999"]
)
def test_other_tokenizers_are_refused_with_what_is_allowed(tokenizer: str) -> None:
    with pytest.raises(StarError, match=r"bpe:4096"):
        DataRecipe(tokenizer=tokenizer)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_held_out_share_must_leave_something_on_both_sides(fraction: float) -> None:
    with pytest.raises(StarError, match="validation_fraction"):
        DataRecipe(validation_fraction=fraction)


def test_an_unknown_setting_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(StarError, match="unknown setting 'tokeniser': did you mean 'tokenizer'"):
        DataRecipe.model_validate({"tokeniser": "bytes"})


class Whole(CheckedModel):
    data: DataRecipe = DataRecipe()


def test_a_mistake_in_a_nested_recipe_is_named_by_its_full_path() -> None:
    with pytest.raises(StarError, match=r"^data\.tokenizer: 'gpt2' names no tokenizer"):
        Whole.model_validate({"data": {"tokenizer": "gpt2"}})
    with pytest.raises(StarError, match=r"^unknown setting 'data\.sorce': did you mean 'source'"):
        Whole.model_validate_json('{"data": {"sorce": "x"}}')
    with pytest.raises(StarError, match=r"^unknown setting 'x': allowed: data$"):
        Whole.model_validate({"x": 1})


def test_replace_validates_and_keeps_the_rest() -> None:
    recipe = DataRecipe(tokenizer="bpe:300")
    assert recipe.replace(source="x") == DataRecipe(source="x", tokenizer="bpe:300")
    with pytest.raises(StarError):
        recipe.replace(validation_fraction=7)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("from star.data import DataRecipe", ["torch", "numpy", "tokenizers"]),
        ("from star.data import prepare, TokenizedCorpus, batches", ["torch", "pyarrow"]),
        ("from star.training import TrainingRecipe, Diverged", ["torch", "numpy"]),
        ("import star.evaluation", ["torch"]),
    ],
)
def test_recipes_import_nothing_heavy(statement: str, absent: list[str]) -> None:
    check = f"{statement}; import sys; print([name for name in {absent!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
