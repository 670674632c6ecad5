"""Trials that cost nothing, for workers to import by name. Scores are functions of the trial alone."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from star.synthesis.trial import Outcome, Trial, TrialFailed

if TYPE_CHECKING:
    from star.synthesis import Recipe

Report = Callable[[Any], None]


def halved(recipe: Recipe) -> Recipe:
    """In rungs of 512 (one step), 1024 and 2048 tokens."""
    return recipe.override(
        {
            "halving.rungs": 3,
            "halving.reduction": 2,
            "training.schedule": "trapezoid",
            "training.batch_tokens": 128,
            "training.warmup_tokens": 128,
            "search.population": 8,
        }
    )


def number(trial: Trial, purpose: str) -> float:
    """Uniform in [0, 1), decided by the trial."""
    text = f"{trial.genome} {trial.seed} {trial.data_seed} {purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def note(trial: Trial) -> None:
    """Append the trial's name, and the budget of its rung, to the file named in FAKE_LOG, if there is one."""
    if path := os.environ.get("FAKE_LOG"):
        with open(path, "a") as log:
            log.write(f"{trial.name}\n" if trial.tokens is None else f"{trial.name}@{trial.tokens}\n")


def score(trial: Trial, report: Report) -> Outcome:
    """One step, then a perplexity from 10 to 20; one in six diverges."""
    note(trial)
    report(SimpleNamespace(step=1, steps=1, loss=1.0))
    if number(trial, "failure") < 1 / 6:
        raise TrialFailed("diverged: the loss is nan at step 1")
    return Outcome({"perplexity": 10 + 10 * number(trial, "perplexity"), "loss": 2.5}, ((16, 3.0), (32, 2.5)))


def slow_score(trial: Trial, report: Report) -> Outcome:
    """``score`` after 30 to 130 ms."""
    time.sleep(0.03 + 0.1 * number(trial, "duration"))
    return score(trial, report)


def uneven_score(trial: Trial, report: Report) -> Outcome:
    """``score``, some trials long after others: they finish in another order than they start."""
    time.sleep(0.3 if number(trial, "duration") < 0.3 else 0.0)
    return score(trial, report)


def first_is_last(trial: Trial, report: Report) -> Outcome:
    """Trial ``1`` ends when 13 others have begun: it never would if anything waited for it."""
    begun = Path(f"{trial.corpus}.begun")  # not named in the environment, which workers have from an earlier moment
    if trial.name == "1":
        while not begun.exists() or len(begun.read_text().split()) < 13:
            time.sleep(0.01)
    else:
        with begun.open("a") as log:
            log.write(f"{trial.name}\n")
    return without_failures(trial, report)


def bug(trial: Trial, report: Report) -> Outcome:
    raise RuntimeError(f"a bug\nin {trial.name}")


def full_disk(trial: Trial, report: Report) -> Outcome:
    """``score``, but the machine is at fault where the trial is ``2``."""
    if trial.name == "2":
        raise OSError(28, "No space left on device")
    return score(trial, report)


def hang(trial: Trial, report: Report) -> Outcome:
    """``score``, but trial ``2`` never ends."""
    if trial.name == "2":
        time.sleep(600)
    return score(trial, report)


def die_in_two(trial: Trial, report: Report) -> Outcome:
    """``score``, but every worker of trial ``2`` is killed."""
    if trial.name == "2":
        os.kill(os.getpid(), signal.SIGKILL)
    return score(trial, report)


def diverge(trial: Trial, report: Report) -> Outcome:
    raise TrialFailed("diverged: the loss is nan at step 3" if trial.name != "1" else "diverged: exploded")


def stop(trial: Trial, report: Report) -> Outcome:
    report(SimpleNamespace(step=1, pid=os.getpid()))
    time.sleep(600)
    return Outcome()


def die_once(trial: Trial, report: Report) -> Outcome:
    """The first worker of trial ``1`` is killed; its second one answers."""
    mark = Path(trial.corpus) / "died"
    if trial.name == "1" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return score(trial, report)


def die(trial: Trial, report: Report) -> Outcome:
    if trial.name == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return score(trial, report)


def leave(trial: Trial, report: Report) -> Outcome:
    os._exit(7)


def tell_device(trial: Trial, report: Report) -> Outcome:
    time.sleep(0.3)
    return Outcome({"is_cpu": float(trial.device == "cpu")})


def without_failures(trial: Trial, report: Report) -> Outcome:
    note(trial)
    return Outcome({"perplexity": 10 + 10 * number(trial, "perplexity")}, ((16, number(trial, "curve")),))


def timed(trial: Trial, report: Report) -> Outcome:
    """A time that is another one whenever it is measured."""
    return Outcome({"perplexity": 10 + 10 * number(trial, "perplexity"), "decode_time@64": time.perf_counter()})


def learning(trial: Trial, report: Report) -> Outcome:
    """A perplexity that falls with the tokens and mostly keeps its order; a file stands for the weights."""
    note(trial)
    time.sleep(0.01 + 0.04 * number(trial, "duration"))
    if number(trial, "failure") < 1 / 8 and (
        trial.tokens is None or number(trial, "late") < 0.5 or trial.tokens > 1000
    ):
        raise TrialFailed("diverged: the loss is nan at step 1")
    if trial.checkpoint is not None:
        trial.checkpoint.mkdir(parents=True, exist_ok=True)
        (trial.checkpoint / "weights").write_text(str(trial.tokens))
    tokens = trial.tokens or trial.recipe.training.tokens
    noise = number(trial, f"noise {tokens}")
    return Outcome({"perplexity": 10 + 10 * number(trial, "perplexity") + (noise + 2000) / tokens}, ((tokens, noise),))


def inheriting(trial: Trial, report: Report) -> Outcome:
    """``score`` after some milliseconds; it depends on what stands in the files of all parents. A missing one is an
    error. The file for children says what it began with."""
    time.sleep(0.03 + 0.1 * number(trial, "duration"))
    parents = [] if trial.heritage is None else [parent.weights.read_text() for parent in trial.heritage.parents]
    outcome = score(trial, report)
    digest = hashlib.sha256(" ".join([trial.genome, str(trial.tokens), *parents]).encode()).hexdigest()
    if trial.weights is not None:
        trial.weights.parent.mkdir(exist_ok=True)
        temporary = trial.weights.with_name(f".{trial.weights.name}.{os.getpid()}")
        temporary.write_text(digest)
        temporary.rename(trial.weights)
    behind = outcome.metrics["perplexity"] + int(digest[:6], 16) / 2**24
    return Outcome({**outcome.metrics, "perplexity": behind}, ((trial.tokens or trial.recipe.training.tokens, 1.0),))


def capricious(trial: Trial, report: Report) -> Outcome:
    """A perplexity at a rung that foretells nothing."""
    return Outcome({"perplexity": 10 + 10 * number(trial, f"perplexity {trial.tokens}")})
