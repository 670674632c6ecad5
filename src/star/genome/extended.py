"""The classes beyond the paper's, as data: linear and windowed attention, state spaces, the Deformer; ids 18 to 31.

Their featurizer classes continue the nine of A.6.2 and read as in `star.genome.paper`.
"""

from __future__ import annotations

from dataclasses import replace

from star.genome.paper import ATTENTION, CONVOLUTION, FEATURIZERS, PROJECTION, RECURRENCE
from star.genome.pool import LivClass
from star.genome.structure import FeaturizerGenome, OperatorGenome, StateSpace

GATE = "1.1.1.4.2.1.1"  # dense, swish
RESAMPLED = "1.5.2.1.2.1.1"  # dense, then read at shifts of its own
SCALE = "2.1.1.1.1.1.1"  # a learned constant for each channel

#: Featurizer classes 10 to 14.
EXTENDED_FEATURIZERS: dict[int, FeaturizerGenome] = {
    key: FeaturizerGenome.parse(text)
    for key, text in {
        10: f"{GATE} 3.4.1.1.1.64.1 {SCALE}",  # S4: K is a fixed diagonal state space with N = 64
        11: f"{PROJECTION} {GATE} 3.4.1.1.1.1.1 3.4.1.1.1.16.1 3.4.1.1.1.16.1",  # Liquid-S4: so are Δ, B and C, N = 16
        12: f"1.1.1.4.4.1.1 3.4.1.1.1.64.1 {SCALE}",  # S4 with a Monarch matrix for a gate
        13: f"{GATE} {PROJECTION} {PROJECTION}",  # the Deformer: gate, shift, value
        14: f"{RESAMPLED} {PROJECTION} {PROJECTION}",  # the gate is resampled, too
    }.items()
}

_DEFORMER = ((), ("s",), ("v",), ("s", "v"))
_DEFORMER_2 = ((), ("g",), ("s",), ("v",), ("g", "v"), ("s", "v"))


def _row(
    liv: int, name: str, operator: str, strategies: tuple[tuple[str, ...], ...], **options: StateSpace
) -> LivClass:
    genome = OperatorGenome.parse(operator)
    featurizer = (FEATURIZERS | EXTENDED_FEATURIZERS)[genome.featurizer]
    return LivClass(liv, name, genome, featurizer, strategies, **options)  # type: ignore[arg-type]


_BASE = (
    _row(18, "LinAttn", "12113", ATTENTION),
    _row(19, "SWA", "12223", ATTENTION),
    _row(20, "S4-1", "10.3.1.1.1", CONVOLUTION),
    _row(21, "S4-2", "11.4.1.1.1", RECURRENCE, state_space=StateSpace.REAL),
    _row(22, "S4-Monarch", "12.3.1.1.4", CONVOLUTION),
    _row(23, "Deformer-1", "13.5.2.1.1", _DEFORMER),
    _row(24, "Deformer-2", "14.5.2.1.1", _DEFORMER_2),
)

EXTENDED_CLASSES: tuple[LivClass, ...] = (
    *_BASE,
    *(replace(row, id=row.id + 7, name=f"{row.name}-Diff", differential=True) for row in _BASE),
)
