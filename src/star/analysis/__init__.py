"""What a search has learnt: ancestry, what backbones are made of, motifs that selection favours. Imports no torch."""

from star.analysis.composition import Composition, Connection, composition, connections
from star.analysis.lineage import Ancestor, lineage
from star.analysis.motifs import Motif, enriched_motifs

__all__ = [
    "Ancestor",
    "Composition",
    "Connection",
    "Motif",
    "composition",
    "connections",
    "enriched_motifs",
    "lineage",
]
