"""What trains candidates fastest on this machine, found by training some for a second with each setting.

Settings are tried one after the other (precision, library for products, processes × threads, micro-batch, compilation),
each against the best so far, on random genomes of the recipe's pool; another one is taken only where it is clearly
faster. What is found is kept in the user's cache for this machine and this size of model, and stored with the run: a
run that is continued or repeated computes as it did before, whatever is measured then.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from star.genome import random_genome
from star.machine import cache_folder, usable_cores
from star.synthesis.executor import Executor, TrialDone, TrialError
from star.synthesis.recipe import Recipe
from star.synthesis.seeds import derived_seed
from star.synthesis.trial import Outcome, Report, Trial
from star.training.recipe import Matmul, Precision

if TYPE_CHECKING:
    from star.data import TokenizedCorpus

MEASURE = "star.synthesis.calibration:measure"
SECONDS = 1.0  # of one measurement, after a first step
TIMEOUT = 300.0  # seconds; a compilation may take minutes
CLEARLY = 1.05  # times faster than the best so far: less is noise
LONG_TRAINING = 3600.0  # seconds of a candidate; a compilation, which takes minutes, is not tried for a shorter one
NO_MATTER = {"peak_learning_rate", "betas", "weight_decay", "clip", "validation_tokens"}  # of a training, to its speed
RATE, SPENT = "tokens_per_second", "seconds_before_first_step"


@dataclass(frozen=True)
class Setting:
    """What decides how fast candidates train, and to the last bits what comes out."""

    workers: int
    threads: int
    precision: str
    micro_batch_tokens: int | None
    compile: bool = False
    matmul: str = "default"  # calibrations that are older than it know no other

    def __str__(self) -> str:
        parts = "whole batches" if self.micro_batch_tokens is None else f"{self.micro_batch_tokens:,} tokens at a time"
        compiled = ", compiled" if self.compile else ""
        products = "" if self.matmul == "default" else f" by {self.matmul}"
        return f"{self.workers} at once, {self.threads} thread(s) each, {self.precision}{products}, {parts}{compiled}"

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with this setting in place of its own."""
        training = recipe.training.replace(
            threads=self.threads,
            precision=self.precision,
            micro_batch_tokens=self.micro_batch_tokens,
            compile=self.compile,
            matmul=self.matmul,
        )
        return recipe.model_copy(update={"training": training})


@dataclass(frozen=True)
class Measurement:
    """A setting, and the tokens a second of all its workers together; None where a training failed with it."""

    setting: Setting
    tokens_per_second: float | None
    seconds_before_first_step: float = 0.0


@dataclass(frozen=True)
class Calibration:
    """The setting chosen, and all that were measured, in that order."""

    setting: Setting
    measured: tuple[Measurement, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        data = json.loads(text)
        rows = tuple(Measurement(**{**row, "setting": Setting(**row["setting"])}) for row in data["measured"])
        return cls(Setting(**data["setting"]), rows)


def measure(trial: Trial, report: Report) -> Outcome:
    """Train a fresh model for a second; the metrics are its tokens a second, and the seconds until its first step."""
    from star.data import TokenizedCorpus
    from star.lm import LanguageModel
    from star.training import Diverged, threads, train

    settings = trial.recipe.training
    corpus = TokenizedCorpus.open(trial.corpus)
    started, times = time.monotonic(), list[float]()

    class Enough(Exception):
        pass

    def stop(_: object) -> None:
        times.append(time.monotonic())
        if len(times) > 1 and times[-1] - times[0] > SECONDS:
            raise Enough

    with threads(settings.threads):
        model = LanguageModel.from_genome(
            trial.genome,
            pool=trial.pool,
            width=trial.recipe.model.width,
            vocab_size=corpus.vocab_size,
            length=settings.length,
            tie_embeddings=trial.recipe.model.tie_embeddings,
            seed=trial.seed,
        )
        with suppress(Enough, Diverged):
            train(model, corpus, settings, seed=trial.data_seed, device=trial.device, on_step=stop)
    if len(times) < 2:
        return Outcome({RATE: settings.step_tokens / (time.monotonic() - started), SPENT: 0.0})
    rate = (len(times) - 1) * settings.step_tokens / (times[-1] - times[0])
    return Outcome({RATE: rate, SPENT: times[0] - started})


@dataclass
class Calibrator:
    """Measures settings for one recipe. ``executor(workers)`` gives what runs trials; it is closed after each use."""

    recipe: Recipe
    corpus: TokenizedCorpus
    executor: Callable[[int], Executor]
    measured: list[Measurement] = field(default_factory=list)

    def best(
        self, start: Setting, cores: int | None, precisions: Sequence[str], matmuls: Sequence[str] = ()
    ) -> Calibration:
        """From ``start``, the setting of the recipe, one thing after the other.

        ``cores``: of which all splits into processes and threads are tried, None for none of them; ``precisions``
        and ``matmuls``: those that may be chosen.
        """
        best = self._measured(start)
        alternatives: tuple[Callable[[Setting], list[Setting]], ...] = (
            lambda now: [replace(now, precision=other) for other in precisions if other != now.precision],
            lambda now: [replace(now, matmul=other) for other in matmuls if other != now.matmul],
            lambda now: splits(now, cores) if cores else [],
            lambda now: micro_batches(now, self.recipe),
        )
        for others in alternatives:
            for setting in others(best.setting):
                best = self._faster(best, self._measured(setting))
        if best.tokens_per_second:
            seconds = self.recipe.training.tokens * best.setting.workers / best.tokens_per_second
            if seconds > LONG_TRAINING and not best.setting.compile:
                compiled = self._measured(replace(best.setting, compile=True))
                spent = compiled.seconds_before_first_step - best.seconds_before_first_step
                saved = seconds * (1 - best.tokens_per_second / (compiled.tokens_per_second or 1e-9))
                if saved > 2 * spent:
                    best = self._faster(best, compiled)
        return Calibration(best.setting, tuple(self.measured))

    @staticmethod
    def _faster(best: Measurement, other: Measurement) -> Measurement:
        ours, theirs = best.tokens_per_second or 0.0, other.tokens_per_second or 0.0
        return other if theirs > CLEARLY * ours else best

    def _measured(self, setting: Setting) -> Measurement:
        rates, before = [], [0.0]
        executor = self.executor(setting.workers)
        try:
            for trial in self._trials(setting):
                executor.submit(trial)
            for event in executor.events():
                if isinstance(event, TrialDone):
                    rates.append(event.outcome.metrics[RATE])
                    before.append(event.outcome.metrics[SPENT])
                elif isinstance(event, TrialError):
                    rates.append(0.0)
        finally:
            executor.close()
        rate = sum(rates) if all(rates) else None  # such as one that ran out of memory
        self.measured.append(Measurement(setting, rate, max(before)))
        return self.measured[-1]

    def _trials(self, setting: Setting) -> Iterator[Trial]:
        """One for each worker, the same genomes and seeds for every setting."""
        recipe, rng = setting.applied(self.recipe), Random(0)
        for number in range(setting.workers):
            yield Trial(
                name=f"calibration {number + 1}",
                genome=str(random_genome(recipe.pool, recipe.model.depth, rng)),
                pool=recipe.pool,
                recipe=recipe,
                corpus=self.corpus.path,
                seed=derived_seed(0, f"calibration {number}"),
                data_seed=0,
                function=MEASURE,
            )


def known_or_best(calibrator: Calibrator, devices: list[str], workers: int, begin: Callable[[], None]) -> Calibration:
    """What the cache has for this machine and the calibrator's recipe, else what it measures, which is kept.

    It starts from the recipe's setting with so many ``workers``; ``begin`` is called before the first measurement.
    """
    import torch

    from star.liv.kernels import fingerprint
    from star.liv.kernels.matmul import probe
    from star.training.precision import uses_bf16

    recipe, training, on_cpu = calibrator.recipe, calibrator.recipe.training, devices == ["cpu"]
    bf16 = uses_bf16(training.precision, torch.device(devices[0]), recipe.model.width)
    start = Setting(
        workers,
        training.threads,
        str(Precision.BF16 if bf16 else Precision.FP32),
        training.micro_batch_tokens,
        compile=training.compile,
        matmul=training.matmul,
    )
    open_to_others = on_cpu and not bf16 and training.matmul is Matmul.DEFAULT
    matmuls = [str(each) for each in Matmul] if open_to_others and probe().is_float32 else []
    machine = f"{devices}, {usable_cores()} cores, torch {torch.__version__}, {fingerprint()}, {matmuls}"
    key = key_of(recipe, calibrator.corpus, machine)
    calibration = known(key)
    if calibration is None:
        begin()
        precisions = [str(Precision.FP32)] if training.precision is Precision.AUTO else []
        calibration = calibrator.best(start, usable_cores() if on_cpu else None, precisions, matmuls)
        remember(key, calibration)
    return calibration


def splits(setting: Setting, cores: int) -> list[Setting]:
    """Other ways to share ``cores`` between processes and threads, powers of two, most processes first."""
    found, threads = [], 1
    while threads <= cores:
        found.append(replace(setting, workers=max(1, cores // threads), threads=threads))
        threads *= 2
    return [other for other in found if (other.workers, other.threads) != (setting.workers, setting.threads)]


def micro_batches(setting: Setting, recipe: Recipe) -> list[Setting]:
    """Halves and quarters of a batch, in whole sequences."""
    training = recipe.training
    found = [training.batch_size // parts * training.length for parts in (2, 4) if training.batch_size // parts]
    return [replace(setting, micro_batch_tokens=tokens) for tokens in found if tokens != setting.micro_batch_tokens]


def key_of(recipe: Recipe, corpus: TokenizedCorpus, machine: str) -> str:
    """What a calibration depends on, as a short name: the machine, the software, the size of model and batch."""
    facts: dict[str, Any] = {
        "machine": machine,
        "model": recipe.model.model_dump(mode="json"),
        "vocabulary": corpus.vocab_size,
        "training": recipe.training.model_dump(mode="json", exclude=NO_MATTER),
    }
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=12).hexdigest()


def known(key: str) -> Calibration | None:
    """What the cache has."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return Calibration.from_json(_path(key).read_text(encoding="utf-8"))
    return None


def remember(key: str, calibration: Calibration) -> None:
    """Keep it in the cache, where that can be written."""
    with suppress(OSError):
        path = _path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(calibration.to_json(), encoding="utf-8")
        temporary.replace(path)


def _path(key: str) -> Path:
    return cache_folder() / "calibrations" / f"{key}.json"
