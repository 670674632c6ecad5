"""The interface of the earlier package ``star-backbone``, over today's genomes and LIVs."""

from star.compat.backbone import ChannelMixingStructure, LIVConfig, STARBackbone, TokenMixingStructure

__all__ = ["ChannelMixingStructure", "LIVConfig", "STARBackbone", "TokenMixingStructure"]
