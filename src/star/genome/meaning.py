"""Which operator and featurizer genomes mean something: one table of refusals, each with its reason."""

from __future__ import annotations

from star.genome.structure import (
    GROUP_NAMES,
    ChannelMixing,
    FeatureGroup,
    FeaturizerGenome,
    Nonlinearity,
    OperatorGenome,
    Parametrization,
    Sparsity,
    TokenMixing,
)

_D, _L, _T, _S = (
    TokenMixing.DIAGONAL,
    TokenMixing.LOW_RANK,
    TokenMixing.SCALED_TOEPLITZ,
    TokenMixing.SEMI_SEPARABLE,
)

_BREAKS_TOEPLITZ = "a nonlinearity on C_i K_{i-j} B_j breaks its Toeplitz structure; put it on a feature group"
_BREAKS_RECURRENCE = "a nonlinearity on T leaves no linear recurrence; put it on a feature group"

#: Token mixing and sparsity that do not go together, with the reason.
SPARSITY_REFUSALS: dict[tuple[TokenMixing, Sparsity], str] = {
    (_D, Sparsity.BANDED): "a diagonal operator is already a band of one token",
    (_D, Sparsity.BLOCK_DIAGONAL): "a diagonal operator is already block-diagonal with blocks of one token",
    (_S, Sparsity.BANDED): "a band cuts the state that a semi-separable operator is defined by",
}

#: Token mixing and nonlinearity that do not go together, with the reason.
NONLINEARITY_REFUSALS: dict[tuple[TokenMixing, Nonlinearity], str] = {
    (_D, Nonlinearity.SOFTMAX): "a softmax over the one position that a diagonal operator sees is constant",
    (_T, Nonlinearity.SOFTMAX): "a softmax over the rows of T breaks its Toeplitz structure",
    (_T, Nonlinearity.RELU): _BREAKS_TOEPLITZ,
    (_T, Nonlinearity.SWISH): _BREAKS_TOEPLITZ,
    (_S, Nonlinearity.SOFTMAX): "a softmax over the rows of T leaves no linear recurrence",
    (_S, Nonlinearity.RELU): _BREAKS_RECURRENCE,
    (_S, Nonlinearity.SWISH): _BREAKS_RECURRENCE,
}


def refusals(operator: OperatorGenome, featurizer: FeaturizerGenome) -> list[str]:
    """Every reason for which this pair of genomes compiles to no LIV; empty where it does."""
    mixing = operator.token_mixing
    reasons = [
        reason
        for reason in (
            SPARSITY_REFUSALS.get((mixing, operator.sparsity)),
            NONLINEARITY_REFUSALS.get((mixing, operator.nonlinearity)),
        )
        if reason
    ]
    names = GROUP_NAMES[mixing]
    if len(featurizer) != len(names):
        return [*reasons, f"it needs {len(names)} feature groups ({', '.join(names)}), not {len(featurizer)}"]
    for name, group in zip(names, featurizer, strict=True):
        reasons += [f"group {name}: {reason}" for reason in _group_refusals(mixing, name, group)]
    if mixing is _L and len({(group.expansion, group.repeat) for group in featurizer.groups[1:]}) > 1:
        reasons.append("groups k and v need one expansion and one repeat")
    if mixing is _D and len({group.expansion for group in featurizer}) > 1:
        reasons.append("groups gate and up need one expansion")
    if mixing is _S and featurizer.groups[3].expansion != featurizer.groups[4].expansion:
        reasons.append("groups B and C need one expansion, the state size")
    return reasons


def _group_refusals(mixing: TokenMixing, name: str, group: FeatureGroup) -> list[str]:
    reasons = []
    kernel = name == "K"
    if group.parametrization is Parametrization.UNUSED:
        return ["it is unused"]
    if kernel == group.from_input:
        reasons.append(
            "a kernel K_{i-j} cannot depend on the input; parametrize it as 2 (explicit) or 3 (implicit)"
            if kernel
            else "only the kernel K is parametrized without the input; parametrize the others as 1"
        )
    if group.from_input and group.token_mixing not in (_D, _T):
        reasons.append("a feature group mixes tokens by 1 (not at all) or 3 (short convolution)")
    if group.nonlinearity is Nonlinearity.SOFTMAX:
        reasons.append("feature groups end in no nonlinearity, ReLU or swish")
    if group.sparsity is Sparsity.BLOCK_DIAGONAL or (
        group.from_input and (group.token_mixing is _T) != (group.sparsity is Sparsity.BANDED)
    ):
        reasons.append("the convolution of a feature group is short: token mixing 3 goes with sparsity 2, and 1 with 1")
    if group.channel_mixing is ChannelMixing.DIAGONAL and group.expansion > 1 and group.from_input:
        reasons.append("diagonal channel mixing keeps the number of channels, so its expansion is 1")
    if kernel and (group.expansion, group.repeat) != (1, 1):
        reasons.append("a kernel has expansion 1 and repeat 1")
    if group.repeat > 1 and not (mixing is _L and name in ("k", "v")):
        reasons.append("only k and v of a low-rank operator are repeated")
    if group.channel_mixing is ChannelMixing.DIAGONAL and (group.repeat > 1 or (mixing is _S and name in ("B", "C"))):
        reasons.append("diagonal channel mixing keeps the number of channels, and this group has fewer")
    if group.expansion > 1 and not (mixing is _D or (mixing is _S and name in ("B", "C"))):
        reasons.append("only gate and up, and the state groups B and C, expand")
    return reasons
