"""STAR: synthesis of tailored architectures.

Everything here is loaded on first use, so that importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from star.backbone import Backbone as Backbone
    from star.backbone import State as State
    from star.compat import ChannelMixingStructure as ChannelMixingStructure
    from star.compat import LIVConfig as LIVConfig
    from star.compat import STARBackbone as STARBackbone
    from star.compat import TokenMixingStructure as TokenMixingStructure
    from star.errors import StarError as StarError
    from star.genome import BackboneGenome as BackboneGenome
    from star.genome import FeaturizerGenome as FeaturizerGenome
    from star.genome import LivClass as LivClass
    from star.genome import OperatorGenome as OperatorGenome
    from star.genome import OptionPool as OptionPool
    from star.genome import Segment as Segment
    from star.genome import preset as preset
    from star.liv import LIV as LIV
    from star.lm import LanguageModel as LanguageModel
    from star.synthesis import Ablation as Ablation
    from star.synthesis import Recipe as Recipe
    from star.synthesis import Run as Run
    from star.synthesis import ablate as ablate
    from star.synthesis import evolve as evolve

_HOMES = {
    "Ablation": "star.synthesis",
    "Backbone": "star.backbone",
    "BackboneGenome": "star.genome",
    "ChannelMixingStructure": "star.compat",
    "FeaturizerGenome": "star.genome",
    "LIV": "star.liv",
    "LIVConfig": "star.compat",
    "LanguageModel": "star.lm",
    "LivClass": "star.genome",
    "OperatorGenome": "star.genome",
    "OptionPool": "star.genome",
    "Recipe": "star.synthesis",
    "Run": "star.synthesis",
    "STARBackbone": "star.compat",
    "Segment": "star.genome",
    "StarError": "star.errors",
    "State": "star.backbone",
    "TokenMixingStructure": "star.compat",
    "ablate": "star.synthesis",
    "evolve": "star.synthesis",
    "preset": "star.genome",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'star' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
