"""What operator and featurizer genomes mean: the roles of feature groups, and one table of refusals with reasons.

``docs/operators.md`` is generated from this file, see `star.genome.reference`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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

_D, _L, _T, _S, _R = (
    TokenMixing.DIAGONAL,
    TokenMixing.LOW_RANK,
    TokenMixing.SCALED_TOEPLITZ,
    TokenMixing.SEMI_SEPARABLE,
    TokenMixing.RESAMPLING,
)

#: The groups of a semi-separable operator that define its transitions; all or none of them are a fixed state space.
STATE_GROUPS = ("delta", "B", "C")

#: What each token-mixing structure computes from its groups.
EQUATIONS: dict[TokenMixing, str] = {
    _D: "T_ii = σ(gate_i), applied to up",
    _L: "T_ij = σ(q_i · k_j / √h) for j ≤ i, applied to v head by head (h: head size; all but softmax average over j)",
    _T: "T_ij = C_i K_{i-j} B_j for j ≤ i, applied to x channel by channel",
    _S: "T_ij = z_i (C_i (Π_{i ≥ s > j} exp(Δ_s A)) Δ_j B_j + D δ_ij) for j ≤ i, applied to v channel by channel; "
    "where Δ, B and C are a fixed state space: T_ij = z_i (C (Π_{i ≥ s > j} (Ā + B̄ u_s)) B̄ + D δ_ij), applied to "
    "u = tanh(v)",
    _R: "T_ij = g_i max(0, 1 - abs(i - s_i - j)) for j ≤ i, 0 ≤ s_i ≤ window, applied to v channel by channel",
}

#: What the values of integer 5 of the operator genome mean.
CHANNELS: dict[ChannelMixing, str] = {
    ChannelMixing.DIAGONAL: "every channel has a token-mixing matrix of its own",
    ChannelMixing.DENSE: "all channels share one token-mixing matrix",
    ChannelMixing.GROUPED: "the channels of a head share one token-mixing matrix",
    ChannelMixing.MONARCH: "every channel has a token-mixing matrix of its own, and the output map is a Monarch matrix",
}

#: The group that T is applied to; it always comes from the input. (A Toeplitz operator is applied to x itself.)
CONTENT: dict[TokenMixing, str] = {_D: "up", _L: "v", _S: "v", _R: "v"}

#: Groups whose channels must agree, by token mixing.
EQUAL_EXPANSION: dict[TokenMixing, tuple[tuple[str, ...], ...]] = {
    _D: (("gate", "up"),),
    _L: (("q", "k"),),
    _S: (("v", "z", "delta"), ("B", "C")),
    _R: (("g", "s", "v"),),
}


@dataclass(frozen=True)
class Rule:
    """One reason for which a genome is refused. `holds` says whether it applies."""

    what: str
    why: str


@dataclass(frozen=True)
class OperatorRule(Rule):
    """About the operator genome alone."""

    holds: Callable[[OperatorGenome], bool]


@dataclass(frozen=True)
class GroupRule(Rule):
    """About one feature group of an operator: (operator, name of the group, group)."""

    holds: Callable[[OperatorGenome, str, FeatureGroup], bool]


def _pair(mixing: TokenMixing, *values: Sparsity | Nonlinearity) -> Callable[[OperatorGenome], bool]:
    def holds(operator: OperatorGenome) -> bool:
        return operator.token_mixing is mixing and any(
            value is operator.sparsity or value is operator.nonlinearity for value in values
        )

    return holds


OPERATOR_RULES: tuple[OperatorRule, ...] = (
    OperatorRule(
        "diagonal token mixing with a sparsity",
        "a diagonal operator sees one token, so it is banded and block-diagonal already",
        _pair(_D, Sparsity.BANDED, Sparsity.BLOCK_DIAGONAL),
    ),
    OperatorRule(
        "diagonal token mixing with softmax",
        "a softmax over the one position that a diagonal operator sees is constant",
        _pair(_D, Nonlinearity.SOFTMAX),
    ),
    OperatorRule(
        "Toeplitz token mixing with a nonlinearity",
        "a nonlinearity on C_i K_{i-j} B_j breaks the Toeplitz structure; put it on a feature group",
        _pair(_T, Nonlinearity.SOFTMAX, Nonlinearity.RELU, Nonlinearity.SWISH),
    ),
    OperatorRule(
        "semi-separable token mixing with a nonlinearity",
        "a nonlinearity on T leaves no linear recurrence; put it on a feature group",
        _pair(_S, Nonlinearity.SOFTMAX, Nonlinearity.RELU, Nonlinearity.SWISH),
    ),
    OperatorRule(
        "semi-separable token mixing with a band",
        "a band cuts off the state that a semi-separable operator is defined by; block-diagonal restarts it",
        _pair(_S, Sparsity.BANDED),
    ),
    OperatorRule(
        "resampling without a band",
        "shifts are bounded by a window, so that decoding keeps a window of tokens: sparsity 2",
        _pair(_R, Sparsity.NONE, Sparsity.BLOCK_DIAGONAL),
    ),
    OperatorRule(
        "resampling with a nonlinearity",
        "the entries of T are weights of an interpolation; put the nonlinearity on a feature group",
        _pair(_R, Nonlinearity.SOFTMAX, Nonlinearity.RELU, Nonlinearity.SWISH),
    ),
)

GROUP_RULES: tuple[GroupRule, ...] = (
    GroupRule(
        "the kernel K from the input",
        "K_{i-j} depends on the lag alone; parametrize it as 2 (explicit) or 3 (implicit)",
        lambda operator, name, group: name == "K" and group.from_input,
    ),
    GroupRule(
        "an implicit group that is not the kernel K",
        "only K is a function of the lag, and beside it Δ, B and C of a fixed state space, which have token mixing 4; "
        "parametrize the group as 1 (from the input) or 2 (a learned constant)",
        lambda operator, name, group: (
            name != "K"
            and group.parametrization is Parametrization.IMPLICIT
            and not (operator.token_mixing is _S and name in STATE_GROUPS and group.state_space)
        ),
    ),
    GroupRule(
        "a nonlinearity on what a fixed state space is made from",
        "its kernel would be no sum of decaying modes any more, so it could not be decoded as a recurrence",
        lambda operator, name, group: group.state_space and group.nonlinearity is not Nonlinearity.NONE,
    ),
    GroupRule(
        "an expanded Δ of a fixed state space",
        "a channel has one step size; the state size is the expansion of B and C",
        lambda operator, name, group: group.state_space and name == "delta" and group.expansion > 1,
    ),
    GroupRule(
        "the content (up or v) as a learned constant",
        "T is applied to the content, so without the input in it nothing is left of the sequence",
        lambda operator, name, group: CONTENT.get(operator.token_mixing) == name and not group.from_input,
    ),
    GroupRule(
        "token mixing 2 or 4 of a group from the input",
        "featurizers end in linear maps and elementwise nonlinearities (paper 2): 1 (none), 3 (short convolution) or 5 "
        "(resampling, with shifts of the group's own)",
        lambda operator, name, group: group.from_input and group.token_mixing not in (_D, _T, _R),
    ),
    GroupRule(
        "token mixing 3 or 5 without a band, or a band without them, in a featurizer",
        "the convolution of a feature group is short and its shifts are bounded, so 3 and 5 go with sparsity 2, and 1 "
        "with sparsity 1",
        lambda operator, name, group: (
            group.from_input and (group.token_mixing in (_T, _R)) != (group.sparsity is Sparsity.BANDED)
        ),
    ),
    GroupRule(
        "a block-diagonal feature group",
        "a convolution of three tokens has no blocks worth cutting; use the operator's sparsity",
        lambda operator, name, group: group.sparsity is Sparsity.BLOCK_DIAGONAL,
    ),
    GroupRule(
        "softmax on a feature group",
        "feature groups end in an elementwise nonlinearity: none, ReLU or swish",
        lambda operator, name, group: group.nonlinearity is Nonlinearity.SOFTMAX,
    ),
    GroupRule(
        "diagonal channel mixing with another number of channels than the input",
        "it scales each channel of the input; expansion and repeat are 1, and B and C of a recurrence have N channels",
        lambda operator, name, group: (
            group.from_input
            and group.channel_mixing is ChannelMixing.DIAGONAL
            and (group.expansion > 1 or group.repeat > 1 or (operator.token_mixing is _S and name in ("B", "C")))
        ),
    ),
    GroupRule(
        "diagonal channel mixing of gate, up, Δ or s in an operator that mixes channels otherwise",
        "gate and up then have hidden channels, Δ and s one for each head; they need a map from the d channels of x",
        lambda operator, name, group: (
            group.from_input
            and group.channel_mixing is ChannelMixing.DIAGONAL
            and (
                (name in ("gate", "up") and operator.channel_mixing is not ChannelMixing.DIAGONAL)
                or (name in ("delta", "s") and operator.channel_mixing in (ChannelMixing.DENSE, ChannelMixing.GROUPED))
            )
        ),
    ),
    GroupRule(
        "an expanded group of a Toeplitz operator",
        "C, K and B act on x itself, channel by channel; only a K from a fixed state space has an expansion, its size",
        lambda operator, name, group: operator.token_mixing is _T and group.expansion > 1 and not group.state_space,
    ),
    GroupRule(
        "a repeated q, K, B or C of a recurrence, or learned constant",
        "q counts the heads, the state groups serve all channels anyway, and a constant or kernel is shared between "
        "channels by the operator's channel mixing",
        lambda operator, name, group: (
            group.repeat > 1
            and (name in ("q", "K") or (operator.token_mixing is _S and name in ("B", "C")) or not group.from_input)
        ),
    ),
)


def settled(name: str, group: FeatureGroup) -> FeatureGroup:
    """`group` with the integers that have no effect at one value: a learned constant has only channels, a kernel only a
    nonlinearity, a fixed state space only a size."""
    if group.from_input:
        return group
    if group.state_space:
        return FeatureGroup(
            Parametrization.IMPLICIT, _S, channel_mixing=ChannelMixing.DIAGONAL, expansion=group.expansion
        )
    if name == "K":
        explicit = group.parametrization is Parametrization.EXPLICIT
        sparsity = Sparsity.BANDED if explicit else Sparsity.NONE
        return FeatureGroup(group.parametrization, _T, sparsity, group.nonlinearity, ChannelMixing.DIAGONAL)
    return FeatureGroup(Parametrization.EXPLICIT, channel_mixing=ChannelMixing.DIAGONAL, expansion=group.expansion)


def refusals(operator: OperatorGenome, featurizer: FeaturizerGenome) -> list[str]:
    """Every reason for which this pair of genomes compiles to no LIV; empty where it does."""
    mixing = operator.token_mixing
    reasons = [f"{rule.what}: {rule.why}" for rule in OPERATOR_RULES if rule.holds(operator)]
    names = GROUP_NAMES[mixing]
    if len(featurizer) != len(names):
        return [*reasons, f"it needs {len(names)} feature groups ({', '.join(names)}), not {len(featurizer)}"]
    groups = dict(zip(names, featurizer, strict=True))
    for name, group in groups.items():
        reasons += [
            f"group {name}, {rule.what}: {rule.why}" for rule in GROUP_RULES if rule.holds(operator, name, group)
        ]
    for equal in EQUAL_EXPANSION.get(mixing, ()):
        if len({groups[name].expansion for name in equal if not (name == "delta" and groups[name].state_space)}) > 1:
            reasons.append(f"groups {', '.join(equal)} meet channel by channel, so they need one expansion")
    if mixing is _S and len({groups[name].state_space for name in STATE_GROUPS}) > 1:
        reasons.append(
            "groups delta, B and C make up one state space, so all or none of them have 3 and token mixing 4"
        )
    if not any(group.from_input for group in featurizer):
        reasons.append(f"group {names[0]}, no group from the input: T would be the same for every input")
    if mixing is _L and groups["k"].repeat != groups["v"].repeat:
        reasons.append("groups k and v belong to the same heads, so they need one repeat")
    return reasons
