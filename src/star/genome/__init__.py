"""Architectures as integers: backbone, operator and featurizer genomes, pools, validity and variation. No torch."""

from star.genome.backbone import BackboneGenome, Segment
from star.genome.composition import Stage, stages
from star.genome.extension import IDENTITY, Extension, Routing
from star.genome.pool import LivClass, OptionPool
from star.genome.presets import BASELINES, PRESETS, preset
from star.genome.scale import stack
from star.genome.structure import (
    ChannelMixing,
    FeatureGroup,
    FeaturizerGenome,
    Nonlinearity,
    OperatorGenome,
    Parametrization,
    Sparsity,
    StateSpace,
    TokenMixing,
)
from star.genome.validity import problems, repair, require_valid
from star.genome.variation import crossover, initial_population, mutate, mutate_inside, random_genome
from star.genome.wiring import Wiring, wiring

__all__ = [
    "BASELINES",
    "IDENTITY",
    "PRESETS",
    "BackboneGenome",
    "ChannelMixing",
    "Extension",
    "FeatureGroup",
    "FeaturizerGenome",
    "LivClass",
    "Nonlinearity",
    "OperatorGenome",
    "OptionPool",
    "Parametrization",
    "Routing",
    "Segment",
    "Sparsity",
    "Stage",
    "StateSpace",
    "TokenMixing",
    "Wiring",
    "crossover",
    "initial_population",
    "mutate",
    "mutate_inside",
    "preset",
    "problems",
    "random_genome",
    "repair",
    "require_valid",
    "stack",
    "stages",
    "wiring",
]
