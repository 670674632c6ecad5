"""Architectures as integers: backbone, operator and featurizer genomes, pools, validity and variation. No torch."""

from star.genome.backbone import BackboneGenome, Segment
from star.genome.pool import LivClass, OptionPool
from star.genome.presets import PRESETS, preset
from star.genome.structure import (
    ChannelMixing,
    FeatureGroup,
    FeaturizerGenome,
    Nonlinearity,
    OperatorGenome,
    Parametrization,
    Sparsity,
    TokenMixing,
)
from star.genome.validity import problems, repair, require_valid
from star.genome.variation import crossover, initial_population, mutate, random_genome
from star.genome.wiring import Wiring, wiring

__all__ = [
    "PRESETS",
    "BackboneGenome",
    "ChannelMixing",
    "FeatureGroup",
    "FeaturizerGenome",
    "LivClass",
    "Nonlinearity",
    "OperatorGenome",
    "OptionPool",
    "Parametrization",
    "Segment",
    "Sparsity",
    "TokenMixing",
    "Wiring",
    "crossover",
    "initial_population",
    "mutate",
    "preset",
    "problems",
    "random_genome",
    "repair",
    "require_valid",
    "wiring",
]
