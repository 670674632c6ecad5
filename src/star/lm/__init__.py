"""Language models over backbones: the model, decoding, checkpoints, costs."""

from star.lm.config import LanguageModelConfig
from star.lm.cost import Cost, LivCost, analyse
from star.lm.flops import forward_flops
from star.lm.generation import left_pad
from star.lm.model import LanguageModel

__all__ = ["Cost", "LanguageModel", "LanguageModelConfig", "LivCost", "analyse", "forward_flops", "left_pad"]
