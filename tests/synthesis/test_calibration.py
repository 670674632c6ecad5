"""What trains fastest is found, kept with the run, and used again whatever is measured later."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from star.errors import StarError
from star.liv.kernels.matmul import Probe
from star.synthesis import Ablation, Recipe, Run, evolve
from star.synthesis.calibration import CLEARLY, RATE, SPENT, Calibration, Calibrator, Setting, key_of, splits
from star.synthesis.events import Calibrated, CalibrationStarted, nobody
from star.synthesis.executor import TrialDone, TrialError
from star.synthesis.session import open_session
from star.synthesis.trial import Outcome, Trial

START = Setting(workers=4, threads=1, precision="bf16", micro_batch_tokens=None)
Speed = Callable[[Setting], float | None]


class Machine:
    """An executor on which a worker's speed is a function of the setting; None: its trials fail."""

    def __init__(self, workers: int, speed: Speed) -> None:
        self.workers, self.speed, self.queue = workers, speed, list[Trial]()

    def submit(self, trial: Trial) -> None:
        self.queue.append(trial)

    def events(self) -> Iterator[object]:
        assert len(self.queue) == self.workers
        for trial in self.queue:
            training = trial.recipe.training
            setting = Setting(
                self.workers,
                training.threads,
                training.precision,
                training.micro_batch_tokens,
                training.compile,
                training.matmul,
            )
            rate = self.speed(setting)
            spent = 100.0 if setting.compile else 0.0
            yield (
                TrialError(trial, "out of memory", 0.0)
                if rate is None
                else TrialDone(trial, Outcome({RATE: rate / self.workers, SPENT: spent}), 1.0)
            )

    def close(self) -> None:
        self.queue.clear()


def calibrated(
    recipe: Recipe, speed: Speed, cores: int | None = 4, start: Setting = START, matmuls: tuple[str, ...] = ()
) -> Calibration:
    corpus = SimpleNamespace(path=Path("corpus"), vocab_size=257)
    calibrator = Calibrator(recipe, corpus, lambda workers: Machine(workers, speed))  # type: ignore[arg-type, return-value]
    return calibrator.best(start, cores, ["bf16", "fp32"], matmuls)


def test_each_setting_is_taken_where_it_is_clearly_faster(recipe: Recipe) -> None:
    def speed(setting: Setting) -> float:
        faster = 1000.0
        faster *= 2 if setting.precision == "fp32" else 1
        faster *= 1.5 if (setting.workers, setting.threads) == (2, 2) else 1
        return faster * (1.2 if setting.micro_batch_tokens == 256 else 1)

    found = calibrated(recipe, speed)
    assert found.setting == Setting(workers=2, threads=2, precision="fp32", micro_batch_tokens=256)
    assert found.measured[0].setting == START


def test_noise_changes_nothing(recipe: Recipe) -> None:
    found = calibrated(recipe, lambda setting: 1000.0 if setting == START else 1000 * (CLEARLY - 0.01))
    assert found.setting == START


def test_a_setting_that_fails_is_never_taken(recipe: Recipe) -> None:
    found = calibrated(recipe, lambda setting: None if setting.precision == "fp32" else 1000.0)
    assert found.setting.precision == "bf16"
    assert found.measured[1].tokens_per_second is None


def test_the_number_of_workers_stays_where_it_is_given(recipe: Recipe) -> None:
    found = calibrated(recipe, lambda setting: 1000.0 * setting.threads, cores=None)
    assert {one.setting.workers for one in found.measured} == {4}


@pytest.mark.parametrize(("hours", "faster", "taken"), [(0.01, 3.0, False), (2, 3.0, True), (2, 1.02, False)])
def test_a_compilation_has_to_be_earned_back(recipe: Recipe, hours: float, faster: float, taken: bool) -> None:
    """One that takes 100 seconds: not even tried for a short training, not taken for a small gain."""
    rate = START.workers * recipe.training.tokens / (3600 * hours)
    found = calibrated(recipe, lambda setting: rate * (faster if setting.compile else 1))
    assert found.setting.compile is taken
    assert any(one.setting.compile for one in found.measured) is (hours >= 1)


@pytest.mark.parametrize(("faster", "taken"), [(2.0, "onednn"), (CLEARLY - 0.01, "default"), (0.5, "default")])
def test_another_library_for_products_is_taken_where_it_is_clearly_faster(
    recipe: Recipe, faster: float, taken: str
) -> None:
    found = calibrated(
        recipe, lambda now: 1000.0 * (faster if now.matmul == "onednn" else 1), matmuls=("default", "onednn")
    )
    assert found.setting == replace(START, matmul=taken)
    assert ("by onednn" in str(found.setting)) is (taken == "onednn")
    assert found.setting.applied(recipe).training.matmul == taken
    assert sum(one.setting.matmul == "onednn" for one in found.measured) > 0
    assert Calibration.from_json(found.to_json()) == found


def test_another_library_for_products_is_not_tried_where_it_is_not_open(recipe: Recipe) -> None:
    found = calibrated(recipe, lambda now: 1000.0 * (2 if now.matmul == "onednn" else 1))
    assert {one.setting.matmul for one in found.measured} == {"default"}


def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What a session on a CPU will ask its calibrator for; nothing is measured, known or remembered."""
    asked: list[tuple[Any, ...]] = []

    def best(self: Calibrator, start: Setting, *others: object) -> Calibration:
        asked.append((start, *others))
        return Calibration(start)

    monkeypatch.setattr(Calibrator, "best", best)
    monkeypatch.setattr("star.synthesis.session.devices", lambda: ["cpu"])
    monkeypatch.setattr("star.synthesis.calibration.known", lambda key: None)
    monkeypatch.setattr("star.synthesis.calibration.remember", lambda key, calibration: None)
    return asked


@pytest.mark.parametrize(
    ("settings", "error", "tried"),
    [
        ({}, 4e-7, ["default", "onednn"]),
        ({}, 2e-3, []),  # this CPU would multiply in bf16
        ({}, None, []),  # this PyTorch cannot do it
        ({"training.matmul": "onednn"}, 4e-7, []),  # chosen already
        ({"training.precision": "bf16"}, 4e-7, []),  # little is multiplied in fp32
    ],
)
def test_only_float32_products_are_open_to_calibration(
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, object],
    error: float | None,
    tried: list[str],
) -> None:
    asked = watched(monkeypatch)
    for module in ("star.liv.kernels.matmul", "star.training.precision"):
        monkeypatch.setattr(f"{module}.probe", lambda: Probe(4e-7, error))
    asking = recipe.override({"search.calibrate": True, "training.precision": "fp32", **settings})
    with open_session(tmp_path, asking, workers=1, listener=nobody) as session:
        session.calibrate()
        assert session.recipe.training.matmul == asking.training.matmul
    ((start, *_, matmuls),) = asked
    assert (start.matmul, matmuls) == (asking.training.matmul, tried)


@pytest.mark.parametrize(("width", "precision"), [(64, "fp32"), (128, "bf16")])
def test_calibration_starts_from_what_auto_means_at_a_width(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, precision: str
) -> None:
    asked = watched(monkeypatch)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: True)
    asking = recipe.override({"search.calibrate": True, "training.precision": "auto", "model.width": width})
    with open_session(tmp_path, asking, workers=1, listener=nobody) as session:
        session.calibrate()
    assert [start.precision for start, *_ in asked] == [precision]


def test_a_calibration_from_before_libraries_could_be_chosen_has_the_default(recipe: Recipe) -> None:
    data = json.loads(calibrated(recipe, lambda setting: 10.0).to_json())
    for setting in (data["setting"], *(row["setting"] for row in data["measured"])):
        del setting["matmul"]
    old = Calibration.from_json(json.dumps(data))
    assert old.setting.matmul == "default"
    assert old == calibrated(recipe, lambda setting: 10.0)


def test_splits_use_all_cores() -> None:
    assert [(one.workers, one.threads) for one in splits(START, 4)] == [(2, 2), (1, 4)]
    assert [(one.workers, one.threads) for one in splits(replace(START, threads=3), 6)] == [(6, 1), (3, 2), (1, 4)]


def test_json_round_trip(recipe: Recipe) -> None:
    found = calibrated(recipe, lambda setting: None if setting.threads == 2 else 10.0)
    assert Calibration.from_json(found.to_json()) == found


def test_a_run_keeps_its_calibration(recipe: Recipe, tmp_path: Path, cache: Path) -> None:
    """Real workers. What the cache says later, on this machine or another, is nothing to a run that has begun."""
    recipe = recipe.override({"search.calibrate": True, "search.generations": 1, "training.precision": "auto"})
    events: list[object] = []
    with evolve(recipe, run=tmp_path / "run", listener=events.append) as run:
        first, scores = run.calibration, [candidate.scores for candidate in run.candidates]
        assert first is not None
        assert first.setting.applied(recipe) == run.recipe
        assert run.recipe.training.precision != "auto"
    assert sum(isinstance(event, CalibrationStarted) for event in events) == 1
    assert all(one.tokens_per_second for one in first.measured)

    (known,) = (cache / "calibrations").glob("*.json")
    with evolve(recipe, run=tmp_path / "same", listener=events.append) as run:
        assert run.calibration == first
        assert [candidate.scores for candidate in run.candidates] == scores
    assert sum(isinstance(event, CalibrationStarted) for event in events) == 1

    known.write_text(replace(first, setting=replace(first.setting, micro_batch_tokens=64)).to_json())
    with evolve(recipe.override({"search.generations": 2}), run=tmp_path / "run", listener=events.append) as run:
        assert run.calibration == first
        assert run.generations == 2
    with Run.open(tmp_path / "run") as run, evolve(run.recipe, run=tmp_path / "run") as again:
        assert again.generations == 2
    with evolve(recipe, run=tmp_path / "other", listener=events.append) as run:
        assert run.recipe.training.micro_batch_tokens == 64
    assert [event.calibration == first for event in events if isinstance(event, Calibrated)] == [True, True, False]


def with_calibration(run: Path, recipe: Recipe, setting: Setting) -> None:
    with open_session(run, recipe, workers=1, listener=nobody) as session:
        session.store.put_facts(calibration=Calibration(setting).to_json())


def test_starting_over_leaves_a_calibration_behind(recipe: Recipe, tmp_path: Path) -> None:
    """As nothing was trained yet, other settings may be asked for; those measured for the old ones are forgotten."""
    with_calibration(tmp_path, recipe.override({"search.calibrate": True}), Setting(2, 8, "fp32", 64))
    other = recipe.override({"model.width": 64, "training.precision": "auto"})
    with open_session(tmp_path, other, workers=1, listener=nobody) as session:
        assert session.recipe == other
        assert session.store.fact("calibration") is None


def test_settings_of_a_calibrated_run_cannot_change(recipe: Recipe, tmp_path: Path) -> None:
    asked = recipe.override({"search.generations": 1})
    evolve(asked, run=tmp_path, workers=1, trial="synthesis_fakes:score").close()
    with_calibration(tmp_path, asked, Setting(1, 8, "fp32", 64))
    for given in (None, asked, asked.override({"search.generations": 2})):
        with evolve(given, run=tmp_path, workers=1, trial="synthesis_fakes:score") as run:
            assert (run.recipe.training.threads, run.recipe.training.micro_batch_tokens) == (8, 64)
    with Run.open(tmp_path) as run:  # the recipe that it shows is its own, too
        evolve(run.recipe, run=tmp_path, workers=1, trial="synthesis_fakes:score").close()
    with pytest.raises(StarError, match=r"training\.threads"):
        evolve(asked.override({"training.threads": 2}), run=tmp_path, trial="synthesis_fakes:score")


def test_a_precision_that_is_given_is_another_calibration(recipe: Recipe) -> None:
    corpus = SimpleNamespace(vocab_size=257)
    keys = {
        key_of(recipe.override({"training.precision": precision}), corpus, "machine")  # type: ignore[arg-type]
        for precision in ("auto", "bf16", "fp32")
    }
    assert len(keys) == 3
    assert key_of(recipe, corpus, "machine") == key_of(recipe.override({"training.clip": 2.0}), corpus, "machine")  # type: ignore[arg-type]


def test_a_library_that_is_given_is_another_calibration(recipe: Recipe) -> None:
    corpus = SimpleNamespace(vocab_size=257)
    keys = [
        key_of(recipe.override({"training.matmul": matmul}), corpus, "machine")  # type: ignore[arg-type]
        for matmul in ("default", "onednn")
    ]
    assert keys[0] != keys[1]


def test_conditions_of_an_ablation_are_not_calibrated_apart(recipe: Recipe) -> None:
    with pytest.raises(StarError, match=r"search\.calibrate would let each condition compute in its own way"):
        Ablation(recipe.override({"search.calibrate": True}), {"one": {"search.seed": 1}, "two": {"search.seed": 2}})
