"""Linear input-varying operators: featurizer, token mixers by structure, decoding state, numerical kernels."""

from star.liv.operator import LIV, Sharing
from star.liv.state import Call, OperatorState, Slot

__all__ = ["LIV", "Call", "OperatorState", "Sharing", "Slot"]
