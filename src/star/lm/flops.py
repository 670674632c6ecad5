"""Floating-point operations of a forward pass, counted from the structure of each LIV.

What is counted, for one sequence of L tokens from an empty state, without embedding and output head:

- two for each weight that a token passes through: channel maps, short convolutions, routers. Weights that are shared
  count wherever they are applied; feature groups that are taken from another LIV are not computed and do not count.
- low rank: two for each product in q·k and in the sum over v, for each pair of positions that may see each other (the
  causal half, a band, blocks); without nonlinearity and mask, the running sum of k ⊗ v and its readout instead.
- Toeplitz: the direct convolution, or two real FFTs of the next power of two above twice the reach (2.5 N log2 N each)
  and the product of spectra, whichever is less; and the two gates.
- semi-separable: six for each state element and token, four times that for complex ones, and four for each channel.
- resampling: four for each channel.

Not counted: what happens once whatever the input (kernels written out, spectra of kernels), norms, nonlinearities,
rotary phases and residual sums. How a device carries the work out does not enter, so the figure is the same everywhere.
"""

from __future__ import annotations

from math import ceil, log2

from torch import nn

from star.backbone.backbone import require_backbone
from star.genome import BackboneGenome, OptionPool, Sparsity, StateSpace, stages, wiring
from star.liv.featurizer import ProjectedGroup
from star.liv.liquid import LiquidMixer
from star.liv.low_rank import LowRankMixer
from star.liv.operator import Operator
from star.liv.resampling import ResamplingMixer
from star.liv.semi_separable import SemiSeparableMixer
from star.liv.toeplitz import ToeplitzMixer
from star.lm.cost import lone_liv, lone_router, weights_of


def forward_flops(genome: BackboneGenome, pool: OptionPool, *, width: int, length: int) -> int:
    """Floating-point operations of the backbone on one sequence of `length` tokens; see above for what counts.

    Nothing is allocated. Raises `StarError` as `Backbone` does."""
    require_backbone(genome, pool, width, length)
    genome = genome.without_identities()
    wires, total = wiring(genome, pool), 0
    for stage in stages(genome):
        total += 2 * length * lone_router(stage.routing, width, len(stage.livs)).parameters
        for index in stage.livs:
            lone = lone_liv(pool[genome.segments[index].liv], width, length, frozenset(wires.taken[index]))
            total += sum(_operator(operator, lone.row.state_space, length) for operator in lone.liv.operators)
    return total


def visible_pairs(length: int, sparsity: Sparsity, window: int) -> int:
    """Pairs (i, j) with j ≤ i < length that the mask leaves."""
    if sparsity is Sparsity.BANDED:
        reach = min(window, length)
        return reach * (reach + 1) // 2 + (length - reach) * reach
    if sparsity is Sparsity.BLOCK_DIAGONAL:
        blocks, rest = divmod(length, window)
        return blocks * (window * (window + 1) // 2) + rest * (rest + 1) // 2
    return length * (length + 1) // 2


def _operator(operator: Operator, space: StateSpace, length: int) -> int:
    groups = [group for group in operator.featurizer.groups.values() if isinstance(group, ProjectedGroup)]
    resampled = sum(4 * group.outputs for group in groups if group.shift is not None)
    maps = 2 * sum(weights_of(module) for module in (*groups, operator.output)) + resampled
    return maps * length + _mixing(operator.mixer, space, length)


def _mixing(mixer: nn.Module, space: StateSpace, length: int) -> int:
    """Of applying T, its features given."""
    match mixer:
        case LowRankMixer() if mixer.recurrent:
            return 2 * (mixer.kv_heads + mixer.heads) * mixer.size * mixer.value_size * length
        case LowRankMixer():
            pairs = visible_pairs(length, mixer.sparsity, mixer.window)
            return 2 * mixer.heads * (mixer.size + mixer.value_size) * pairs
        case ToeplitzMixer():
            reach = min(length, mixer.reach or length)
            direct = 2 * visible_pairs(length, Sparsity.BANDED, reach)
            points = 1 << ceil(log2(2 * reach))
            passes = ceil(length / reach)  # overlap-add
            transformed = passes * (5 * points * round(log2(points)) + 3 * points)
            return mixer.channels * (min(direct, transformed) + 2 * length)
        case SemiSeparableMixer():
            return mixer.channels * (6 * mixer.state_size + 4) * length
        case LiquidMixer():
            numbers = 6 * mixer.state_size if space is StateSpace.REAL else 24 * (mixer.state_size // 2)
            return mixer.channels * (numbers + 4) * length
        case ResamplingMixer():
            return 4 * mixer.channels * length
        case _:
            return mixer.channels * length  # type: ignore[operator,return-value]
