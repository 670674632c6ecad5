"""Trained weights of possible parents as files: written whole or not at all, read into a child, removed in the end."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from star.errors import StarError
from star.genome import stages
from star.synthesis.inheritance import Heritage, Parent, inherited

if TYPE_CHECKING:
    from star.genome import BackboneGenome
    from star.lm import LanguageModel


def keep_weights(model: LanguageModel, path: Path) -> None:
    """Write the weights beside their place and rename them, so that they are whole or absent, also after a power cut.

    Raises StarError where they cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from star.training.checkpoint import flush, model_tensors

    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*"):  # by a worker that was killed while it wrote
            left.unlink(missing_ok=True)
        save_file(model_tensors(model), temporary, metadata={"genome": str(model.backbone.genome)})
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    except (OSError, SafetensorError) as error:
        raise StarError(f"the weights {str(path)!r} cannot be kept for children ({error}): make room") from None


def begin_with(model: LanguageModel, heritage: Heritage) -> tuple[int | None, ...]:
    """Copy what ``model``, fresh from its own seed, inherits: embedding, final norm and head from the first parent, and
    each stage from the parent that ``inherited`` names, in all its bits. Returns what that says.

    Raises StarError where a parent's weights are missing, or are not its own.
    """
    import torch

    backbone = model.backbone
    genomes = [_genome_of(parent) for parent in heritage.parents]
    sources = inherited(backbone.genome, genomes, backbone.pool)
    own = model.tensors()
    names: dict[int, dict[str, str]] = {0: {name: name for name in own if not name.startswith("backbone.")}}
    for number, source in enumerate(sources):
        if source is not None:
            livs = backbone.stages[number].livs
            theirs = next(place for place, stage in enumerate(stages(genomes[source])) if stage.livs == livs)
            prefixes = dict(zip(_prefixes(number, livs), _prefixes(theirs, livs), strict=True))
            names.setdefault(source, {}).update(_renamed(own, prefixes))
    with torch.no_grad():
        for source, wanted in names.items():
            _copy(own, wanted, heritage.parents[source])
    return sources


def forget_weights(folder: Path, kept: Collection[str]) -> None:
    """Remove the weights of all candidates but those of the names ``kept``, and what killed workers left of them."""
    with suppress(FileNotFoundError):
        for path in list(folder.iterdir()):
            if path.name.removeprefix(".").partition(".")[0] not in kept:
                path.unlink(missing_ok=True)


def _genome_of(parent: Parent) -> BackboneGenome:
    from star.genome import BackboneGenome

    return BackboneGenome.parse(parent.genome).without_identities()


def _prefixes(number: int, livs: Collection[int]) -> list[str]:
    """What the names of a stage's tensors begin with."""
    return [
        f"backbone.norms.{number}.",
        f"backbone.routers.{number}.",
        *(f"backbone.livs.{index}." for index in livs),
    ]


def _renamed(names: Collection[str], prefixes: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Those of ``names`` with one of the prefixes, each with the name that the parent has for it."""
    for name in names:
        for prefix, theirs in prefixes.items():
            if name.startswith(prefix):
                yield name, theirs + name.removeprefix(prefix)


def _copy(own: dict, names: dict[str, str], parent: Parent) -> None:
    """Copy a parent's tensors into those of the child, by the names of both."""
    from safetensors import SafetensorError, safe_open

    mend = "put the file back from a copy of the run, or start a new run"
    if not parent.weights.is_file():
        raise StarError(f"the weights of its parent, candidate {parent.name}, are missing ({parent.weights}); {mend}")
    try:
        with safe_open(parent.weights, framework="pt") as file:
            genome = (file.metadata() or {}).get("genome")
            if genome != str(_genome_of(parent)):
                raise StarError(
                    f"{parent.weights} holds the weights of {genome}, not of candidate {parent.name}; {mend}"
                )
            for name, theirs in names.items():
                own[name].copy_(file.get_tensor(theirs))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise StarError(f"the weights of its parent, {parent.weights}, are damaged ({error}); {mend}") from None
