"""Language models over backbones: the model, decoding, checkpoints, costs."""

from star.lm.config import LanguageModelConfig
from star.lm.cost import Cost, LivCost, analyse
from star.lm.generation import left_pad
from star.lm.model import LanguageModel

__all__ = ["Cost", "LanguageModel", "LanguageModelConfig", "LivCost", "analyse", "left_pad"]
