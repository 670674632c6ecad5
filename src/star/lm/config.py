"""What a language model is made from; written beside its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from star.errors import StarError
from star.genome import BackboneGenome, OptionPool

FORMAT = 1


@dataclass(frozen=True)
class LanguageModelConfig:
    """genome over pool at a width. length (tokens): what the model is trained on; sets implicit kernels' time scale."""

    genome: BackboneGenome
    width: int
    vocab_size: int
    pool: OptionPool = field(default_factory=OptionPool.paper)
    length: int = 4096
    tie_embeddings: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the pool travels along, so that a checkpoint needs nothing else."""
        return {
            "format": FORMAT,
            "genome": str(self.genome),
            "width": self.width,
            "vocab_size": self.vocab_size,
            "length": self.length,
            "tie_embeddings": self.tie_embeddings,
            "pool": self.pool.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LanguageModelConfig:
        """The inverse of `to_dict`; `StarError` for another format or a missing field."""
        if data.get("format") != FORMAT:
            raise StarError(f"the model config has format {data.get('format')!r}; this version reads format {FORMAT}.")
        try:
            return cls(
                BackboneGenome.parse(data["genome"]),
                int(data["width"]),
                int(data["vocab_size"]),
                OptionPool.from_dict(data["pool"]),
                int(data["length"]),
                bool(data["tie_embeddings"]),
            )
        except KeyError as missing:
            raise StarError(f"the model config lacks {missing}; save the model again.") from None
