"""Ablations: one search for each condition, each a run of its own, measured against one box."""

from __future__ import annotations

from pathlib import Path

import pytest

from star.errors import StarError
from star.evolution import hypervolume
from star.synthesis import Ablation, Recipe, Run, RunState, Status, ablate
from star.synthesis.events import CandidateFinished, CandidateStarted, ConditionStarted, SearchFinished

FAKE = "synthesis_fakes:score"
RESIDUAL = {"model.extend": ["residual"]}


@pytest.fixture
def ablation(recipe: Recipe) -> Ablation:
    return Ablation(recipe.override({"search.generations": 2}), {"standard": {}, "residual": RESIDUAL})


def test_the_ablation_of_the_paper_differs_in_residual_groups_alone() -> None:
    assert Ablation.names() == ["residual-ablation"]
    ablation = Ablation.load("residual-ablation")
    standard, residual = ablation.recipes["standard"], ablation.recipes["residual"]
    assert standard.differences(residual) == ["model.extend"]
    assert (standard.model.extend, residual.model.extend) == ((), ("residual",))
    assert (standard.model.depth, standard.model.width) == (24, 768)
    assert (standard.search.population, standard.search.generations) == (16, 7)
    assert Recipe.load("paper-125m").differences(standard) == ["search.generations"]


def test_every_recipe_is_of_one_search_or_an_ablation() -> None:
    for name in Ablation.names():
        assert name not in Recipe.names()
        with pytest.raises(StarError, match=f"{name}.*`star ablate`"):
            Recipe.load(name)
    for name in Recipe.names():
        with pytest.raises(StarError, match=f"{name}.*two or more conditions"):
            Ablation.load(name)


@pytest.mark.parametrize("line", ['"model.extend" = ["residual"]', 'model.extend = ["residual"]'])
def test_a_condition_is_a_table_of_dotted_settings(line: str, tmp_path: Path) -> None:
    text = Recipe.load("demo").to_toml() + f"\n[ablation.standard]\n[ablation.residual]\n{line}\n"
    (tmp_path / "mine.toml").write_text(text)
    assert Ablation.load(tmp_path / "mine.toml") == Ablation(
        Recipe.load("demo"), {"standard": {}, "residual": RESIDUAL}
    )


BAD = {
    "one": ("[ablation.a]", "two or more conditions, but there is a"),
    "no table": ("[ablation]\na = 3", "a table \\[ablation.NAME\\]"),
    "not a section": ("ablation = 3", "a table \\[ablation.NAME\\]"),
    "equal": ("[ablation.a]\n[ablation.b]", "'a' and 'b' are the same search"),
    "setting": ("[ablation.a]\n[ablation.b]\n'model.width' = -1", "condition 'b': model.width"),
    "unknown": ("[ablation.a]\n[ablation.b]\n'model.with' = 1", "did you mean 'width'"),
    "section": ("[ablation.a]\n[ablation.b]\nwidth = 1", "SECTION.NAME"),
    "objectives": ("[ablation.a]\n[ablation.b]\n'search.objectives' = ['parameters']", "in the same objectives"),
    "text": ("[ablation.a]\n[ablation.b]\n'data.tokenizer' = 'bpe:512'", "'b' changes data.tokenizer"),
    "directory": ("[ablation.a]\n[ablation.'../b']", "'../b' cannot name a condition"),
}


@pytest.mark.parametrize("name", BAD)
def test_conditions_that_cannot_be_compared_are_refused(name: str, tmp_path: Path) -> None:
    text, message = BAD[name]
    (tmp_path / "bad.toml").write_text(f"{text}\n" + Recipe.load("demo").to_toml())
    with pytest.raises(StarError, match=message) as caught:
        Ablation.load(tmp_path / "bad.toml")
    assert "bad.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_change_all_conditions_and_none_of_their_own(ablation: Ablation) -> None:
    wider = ablation.override({"model.width": 64, "search.seed": None})
    assert {recipe.model.width for recipe in wider.recipes.values()} == {64}
    assert wider.recipes["residual"].model.extend == ("residual",)
    with pytest.raises(StarError, match=r"'residual' has a model\.extend of its own"):
        ablation.override({"model.extend": "depth"})


def test_each_condition_is_a_run_and_all_share_one_box(ablation: Ablation, tmp_path: Path) -> None:
    results = ablate(ablation, run=tmp_path / "all", workers=2, trial=FAKE)
    objectives = ablation.recipe.search.objectives
    runs = {result.condition: Run.open(tmp_path / "all" / result.condition) for result in results}
    first = [c for run in runs.values() for c in run.candidates if c.generation == 1 and c.status is Status.DONE]
    low = [min(c.scores[name] for c in first) for name in objectives]
    high = [max(c.scores[name] for c in first) for name in objectives]
    high = [worst + 0.1 * (worst - best) for best, worst in zip(low, high, strict=True)]
    area = (high[0] - low[0]) * (high[1] - low[1])
    assert [result.condition for result in results] == ["standard", "residual"]
    for result in results:
        run = runs[result.condition]
        assert run.state is RunState.FINISHED
        assert run.recipe == ablation.recipes[result.condition]
        assert result.candidates == len(run.candidates)
        assert result.failed == sum(candidate.status is Status.FAILED for candidate in run.candidates)
        assert result.best_perplexity == min(candidate.perplexity for candidate in run.front)
        assert result.fewest_parameters == min(candidate.parameters for candidate in run.front)
        expected = [
            hypervolume([[c.scores[name] for name in objectives] for c in run.population(g)], high) / area
            for g in (1, 2)
        ]
        assert result.hypervolumes == pytest.approx(expected)
        run.close()


def test_an_interrupted_ablation_continues_to_the_same_end(ablation: Ablation, tmp_path: Path) -> None:
    whole = ablate(ablation, run=tmp_path / "whole", workers=1, trial=FAKE)
    conditions: list[str] = []

    def interrupt(event: object) -> None:
        if isinstance(event, ConditionStarted):
            conditions.append(event.condition)
        if isinstance(event, CandidateFinished) and conditions == ["standard", "residual"]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ablate(ablation, run=tmp_path / "cut", workers=1, listener=interrupt, trial=FAKE)
    events: list[object] = []
    again = ablate(ablation, run=tmp_path / "cut", workers=1, listener=events.append, trial=FAKE)
    started = [event.candidate.name for event in events if isinstance(event, CandidateStarted)]
    assert started == [str(number) for number in range(2, whole[1].candidates + 1)], "nothing is trained again"
    assert [vars(result) | {"run": None} for result in again] == [vars(result) | {"run": None} for result in whole]


def test_another_recipe_is_told_before_anything_is_trained(ablation: Ablation, tmp_path: Path) -> None:
    ablate(ablation, run=tmp_path / "all", workers=1, trial=FAKE)
    other = Ablation(ablation.recipe, {"new": {"search.mutation": 0.5}, "residual": {"model.extend": ["depth"]}})
    events: list[object] = []
    with pytest.raises(StarError, match=r"residual.*model\.extend differ"):
        ablate(other, run=tmp_path / "all", workers=1, listener=events.append, trial=FAKE)
    assert events == []
    with pytest.raises(StarError, match="is the run of one search"):
        ablate(ablation, run=tmp_path / "all" / "standard", workers=1, trial=FAKE)


def test_more_generations_extend_every_condition(ablation: Ablation, tmp_path: Path) -> None:
    ablate(ablation.override({"search.generations": 1}), run=tmp_path / "all", workers=1, trial=FAKE)
    ended: list[int] = []

    def note(event: object) -> None:
        if isinstance(event, SearchFinished):
            ended.append(event.generations)

    results = ablate(ablation, run=tmp_path / "all", workers=1, listener=note, trial=FAKE)
    assert ended == [2, 2]
    assert [len(result.hypervolumes) for result in results] == [2, 2]


def test_without_training_there_is_no_perplexity(ablation: Ablation, tmp_path: Path) -> None:
    sizes = ablation.override({"search.objectives": "parameters"})
    results = ablate(sizes, run=tmp_path / "all", workers=1)
    assert [result.best_perplexity for result in results] == [None, None]
