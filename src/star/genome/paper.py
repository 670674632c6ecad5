"""The paper's pool as data (A.6): 17 LIV classes, each an operator genome, a featurizer genome, sharing strategies.

A feature group reads: parametrization, token mixing, sparsity, nonlinearity, channel mixing, expansion, repeat.
"""

from __future__ import annotations

from dataclasses import replace

from star.genome.pool import LivClass
from star.genome.structure import FeaturizerGenome, OperatorGenome

PROJECTION = "1.1.1.1.2.1.1"  # dense, no token mixing
CONVOLVED = "1.3.2.1.2.1.1"  # dense, then a short (banded Toeplitz) depthwise convolution
DEPTHWISE = "1.3.2.1.1.1.1"  # short depthwise convolution only

#: The nine featurizer classes of A.6.2.
FEATURIZERS: dict[int, FeaturizerGenome] = {
    key: FeaturizerGenome.parse(text)
    for key, text in {
        1: f"{PROJECTION} {PROJECTION} {PROJECTION}",
        2: f"{CONVOLVED} {CONVOLVED} {CONVOLVED}",
        3: f"{PROJECTION} 1.1.1.1.2.1.4 1.1.1.1.2.1.4",
        4: f"{PROJECTION} 1.1.1.1.2.1.2 1.1.1.1.2.1.2",
        # v is convolved and gated by swish; Δ, B and C read it, which is what gives them Toeplitz token mixing.
        5: "1.3.2.4.2.1.1 1.1.1.4.2.1.1 1.3.2.1.2.1.1 1.3.2.1.2.16.1 1.3.2.1.2.16.1",
        6: "1.3.2.4.2.1.1 1.1.1.4.2.1.1 1.3.2.1.2.1.1 1.3.2.1.2.2.1 1.3.2.1.2.2.1",
        7: f"{DEPTHWISE} 2.3.2.1.1.1.1 {DEPTHWISE}",
        8: f"{DEPTHWISE} 3.3.1.1.1.1.1 {DEPTHWISE}",
        9: "1.1.1.1.2.4.1 1.1.1.1.2.4.1",
    }.items()
}

#: Sharing strategies of the families (A.6.1).
ATTENTION = ((), ("k",), ("v",), ("k", "v"))
RECURRENCE = ((), ("B",), ("C",), ("B", "C"), ("delta",), ("delta", "B", "C"))
CONVOLUTION = ((), ("K",), ("B",), ("K", "B"))
MEMORYLESS = ((), ("gate",), ("gate", "up"))


def _row(liv: int, name: str, operator: str, strategies: tuple[tuple[str, ...], ...]) -> LivClass:
    genome = OperatorGenome.parse(operator)
    return LivClass(liv, name, genome, FEATURIZERS[genome.featurizer], strategies)


_BASE = (
    _row(1, "SA-1", "12123", ATTENTION),
    _row(2, "SA-2", "22123", ATTENTION),
    _row(3, "SA-3", "32123", ATTENTION),
    _row(4, "SA-4", "42123", ATTENTION),
    _row(5, "Rec-1", "54111", RECURRENCE),
    _row(6, "Rec-2", "64111", RECURRENCE),
    _row(7, "GConv-1", "73111", CONVOLUTION),
    _row(8, "GConv-2", "83111", CONVOLUTION),
    _row(9, "GMemless", "91142", MEMORYLESS),
)

PAPER_CLASSES: tuple[LivClass, ...] = (
    *_BASE,
    *(replace(row, id=row.id + 9, name=f"{row.name}-Diff", differential=True) for row in _BASE[:8]),
)
