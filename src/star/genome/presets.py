"""Known architectures as genomes plus pool, at any depth: the baselines of paper A.3, and stacks of Deformers."""

from __future__ import annotations

from dataclasses import replace

from star.errors import StarError
from star.genome.backbone import BackboneGenome
from star.genome.pool import OptionPool
from star.genome.structure import FeaturizerGenome
from star.genome.variation import interleaved, unconnected

STRIPED_STATE_SIZE = 32  # A.3: the Mamba operators of StripedMamba
STRIPE = 12  # of every 12 LIVs one is attention: operators 6 and 18 of 24


def _transformer(depth: int) -> tuple[BackboneGenome, OptionPool]:
    pool = OptionPool.paper()
    return interleaved(1, 9, depth), OptionPool("transformer++", (pool[1], pool[9]))


def _striped_mamba(depth: int) -> tuple[BackboneGenome, OptionPool]:
    """Mamba and SwiGLU interleaved; attention stands in the middle of every full stripe of 12 LIVs (operators 6 and 18
    of 24), and in the middle of a backbone that is shallower than a stripe."""
    paper = OptionPool.paper()
    v, z, delta, b, c = paper[5].featurizer.groups
    b, c = (replace(group, expansion=STRIPED_STATE_SIZE) for group in (b, c))
    mamba = replace(
        paper[5],
        name="Mamba",
        featurizer=FeaturizerGenome((v, z, delta, b, c)),
    )
    classes = [5 if index % 2 == 0 else 9 for index in range(depth)]
    stripes = range(STRIPE // 2, depth, STRIPE) if depth >= STRIPE else [depth // 4 * 2]
    for index in stripes:
        classes[index] = 1
    return unconnected(classes), OptionPool("striped-mamba", (paper[1], mamba, paper[9]))


def _deformer(depth: int) -> tuple[BackboneGenome, OptionPool]:
    """Deformer-1 and SwiGLU interleaved."""
    pool = OptionPool.full()
    return interleaved(23, 9, depth), OptionPool("deformer", (pool[9], pool[23]))


def _deformer_only(depth: int) -> tuple[BackboneGenome, OptionPool]:
    """Nothing but Deformer-1, as the Deformer was published."""
    return interleaved(23, None, depth), OptionPool("deformer-only", (OptionPool.full()[23],))


#: What every search is compared with.
BASELINES = {"transformer++": _transformer, "striped-mamba": _striped_mamba}
PRESETS = BASELINES | {"deformer": _deformer, "deformer-only": _deformer_only}


def preset(name: str, depth: int) -> tuple[BackboneGenome, OptionPool]:
    """Genome and pool of a preset with `depth` LIVs; `StarError` for an unknown name or no LIV at all."""
    if name not in PRESETS:
        raise StarError(f"{name!r} is no preset; there are {', '.join(PRESETS)}.")
    if depth < 1:
        raise StarError(f"a backbone has at least 1 LIV; depth {depth} was asked for.")
    return PRESETS[name](depth)
