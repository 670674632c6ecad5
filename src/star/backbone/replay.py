"""Which backbones decode by the same operations for every token, so that these can be recorded once and replayed.

The position then lies on the device. States that grow are read up to a fixed number of keys, those that are still to
come masked; `bucket` says how many, so that a few recordings serve a whole sequence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from star.backbone.decode import DTYPES
from star.liv.step import replayable

if TYPE_CHECKING:
    from star.backbone.backbone import Backbone

SMALLEST_BUCKET = 256  # tokens


def obstacle(backbone: Backbone) -> str | None:
    """Why one token cannot be recorded, in words that continue a sentence; None where it can."""
    dtype = next(backbone.parameters()).dtype
    if dtype not in DTYPES:
        return f"the weights are {dtype}; convert the model to float32"
    if len(backbone.routers):
        return f"stage {min(map(int, backbone.routers))} has routed paths"
    for index, (liv, segment) in enumerate(zip(backbone.livs, backbone.genome, strict=True)):
        if not replayable(liv):  # type: ignore[arg-type]
            return f"LIV {index} (class {segment.liv}) takes other operations for every token"
    return None


def room(backbone: Backbone, length: int) -> int:
    """Tokens, at least `length`, that a state must be made for if its rings shall be as long as they ever get."""
    full = _fixed(backbone, 1 << 30)
    while _fixed(backbone, length) != full:
        length *= 2
    return length


def _fixed(backbone: Backbone, length: int) -> list[tuple[int, ...]]:
    return [slot.shape for _, slots in backbone.slots(length).units() for slot in slots if not slot.positional]


def bucket(position: int, max_length: int) -> int:
    """How many keys are looked at for the token at `position`: a power of two, or all that the state has room for."""
    return min(max_length, max(SMALLEST_BUCKET, 1 << position.bit_length()))
