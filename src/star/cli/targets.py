"""What an argument GENOME|PRESET|RUN[:CANDIDATE]|CHECKPOINT names."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from star.errors import StarError

if TYPE_CHECKING:
    from star.genome import BackboneGenome, OptionPool
    from star.lm import LanguageModelConfig
    from star.synthesis import Candidate, Recipe

GENOME_LIKE = re.compile(r"[\d.\s-]*\d[\d.\s-]*")
PRESET_DEPTH = 24
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"  # as in star.lm, which would import torch


@dataclass(frozen=True)
class RunTarget:
    """A run as a whole."""

    path: Path


@dataclass(frozen=True)
class ArchitectureTarget:
    """One architecture. `recipe` and `candidate` are those of the run that it comes from, `checkpoint` and `config`
    those of the trained model, if it comes from one."""

    name: str
    """Fit for a file name: `transformer++`, `demo-7`; the digest of a genome."""
    genome: BackboneGenome
    pool: OptionPool
    recipe: Recipe | None = None
    candidate: Candidate | None = None
    checkpoint: Path | None = None
    config: LanguageModelConfig | None = None


def resolve(
    text: str,
    *,
    depth: int | None = None,
    preset_depth: int = PRESET_DEPTH,
    pool: str | None = None,
    extend: str | None = None,
) -> RunTarget | ArchitectureTarget:
    """What `text` names; `depth` chooses the depth of a preset (default: `preset_depth`), `pool` and `extend` the
    classes and extensions of a genome (see `star.synthesis.pools.genome_pool`).

    Raises StarError where it names nothing, where a genome is invalid, where `depth` contradicts a genome, or where
    `pool` or `extend` is given for something that has an option pool already.
    """
    if not _is_genome(text):
        target = _named(text, preset_depth if depth is None else depth)
        if given := [f"--{name}" for name, value in (("pool", pool), ("extend", extend)) if value is not None]:
            raise StarError(
                f"{text!r} has an option pool of its own, so {' and '.join(given)} must be left out; it goes with a "
                "genome, such as '11111 91111'"
            )
        if isinstance(target, RunTarget):
            return target
    else:
        target = _genome(text, pool, extend)
    if depth is not None and depth != target.genome.depth:
        raise StarError(
            f"{text!r} has {target.genome.depth} LIVs, not {depth}: --depth chooses the depth of presets only"
        )
    return target


def resolve_architecture(text: str, **choices: Any) -> ArchitectureTarget:
    """Like `resolve`, but a run as a whole is refused, and so is what is trained already."""
    target = resolve(text, **choices)
    if isinstance(target, RunTarget):
        raise StarError(f"{text!r} is a whole run: name one of its candidates, such as {text}:1")
    if target.checkpoint is not None:
        raise StarError(f"{text!r} is trained already; name a genome, a preset or RUN:CANDIDATE")
    return target


def _is_genome(text: str) -> bool:
    return GENOME_LIKE.fullmatch(text) is not None and not Path(text).exists()


def _named(text: str, preset_depth: int) -> RunTarget | ArchitectureTarget:
    """A preset, run, candidate or checkpoint."""
    from star.genome import PRESETS, preset

    if text in PRESETS:
        return ArchitectureTarget(text, *preset(text, preset_depth))
    if _is_run(Path(text)):
        return RunTarget(Path(text))
    path, colon, candidate = text.rpartition(":")
    if colon and _is_run(Path(path)):
        return _candidate(Path(path), candidate)
    if is_checkpoint(Path(text)):
        return _checkpoint(Path(text))
    raise StarError(_unknown(text, Path(path if colon else text)))


def _is_run(path: Path) -> bool:
    from star.synthesis.store import DATABASE

    return (path / DATABASE).is_file()


def is_checkpoint(path: Path) -> bool:
    """Whether `star train` has finished a model in this folder."""
    return (path / CONFIG_FILE).is_file() and (path / WEIGHTS_FILE).is_file()


def _checkpoint(path: Path) -> ArchitectureTarget:
    from star.lm import LanguageModelConfig

    try:
        config = LanguageModelConfig.from_dict(json.loads((path / CONFIG_FILE).read_text(encoding="utf-8")))
    except StarError as error:
        raise StarError(f"{str(path)!r} is no checkpoint of this version: {error}") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise StarError(f"{str(path)!r} holds no readable checkpoint: {error}") from None
    return ArchitectureTarget(path.resolve().name, config.genome, config.pool, checkpoint=path, config=config)


def _candidate(path: Path, name: str) -> ArchitectureTarget:
    from star.synthesis import Run

    with Run.open(path) as run:
        candidate = run.candidate(name)
        genome, pool = run.architecture(candidate)
        return ArchitectureTarget(f"{path.resolve().name}-{candidate.name}", genome, pool, run.recipe, candidate)


def _genome(text: str, pool: str | None, extend: str | None) -> ArchitectureTarget:
    from star.genome import BackboneGenome, require_valid
    from star.synthesis.pools import genome_pool

    genome = BackboneGenome.parse(text)
    chosen = genome_pool(genome, pool, extend)
    require_valid(genome, chosen)
    return ArchitectureTarget(genome.digest(chosen), genome, chosen)


def _unknown(text: str, path: Path) -> str:
    from star.genome import PRESETS

    if path.is_dir():
        return (
            f"the folder {str(path)!r} holds no run and no checkpoint; name the directory that `star evolve --run` or "
            "`star train --out` was given"
        )
    return (
        f"{text!r} is neither a genome (such as '11111 91111'), nor a preset ({', '.join(PRESETS)}), "
        "nor the directory of a run, nor RUN:CANDIDATE, nor a checkpoint"
    )
