"""The interface of the earlier package: its README's quick start, and every token and channel mixing."""

from __future__ import annotations

import pytest
import torch

from star import ChannelMixingStructure, LIVConfig, STARBackbone, StarError, TokenMixingStructure

QUICK_START = """
from star import STARBackbone, LIVConfig, TokenMixingStructure, ChannelMixingStructure

# Configure model
dim = 512
depth = 24

# Define genome
genome = [
    [1, 1, 1, 1, 1],  # SA-1
    [9, 1, 1, 1, 1],  # GMemless
    [1, 2, 1, 2, 1],  # SA-1 with sharing
]

# Configure operators
configs = {
    1: LIVConfig(
        featurizer_class=1,
        token_mixing=TokenMixingStructure.LOW_RANK,
        sparsity_mask=False,
        nonlinearity="softmax",
        channel_mixing=ChannelMixingStructure.GROUPED
    ),
    9: LIVConfig(
        featurizer_class=9,
        token_mixing=TokenMixingStructure.DIAGONAL,
        sparsity_mask=False,
        nonlinearity="silu",
        channel_mixing=ChannelMixingStructure.DENSE
    )
}

# Create model
model = STARBackbone(dim, depth, genome, configs)
"""


def check_causal_and_trainable(model: STARBackbone, width: int) -> None:
    x = torch.randn(2, 11, width, requires_grad=True)
    y = model(x)
    assert y.shape == x.shape
    y[:, :6].square().sum().backward()
    assert x.grad is not None
    assert float(x.grad[:, 6:].abs().max()) < 1e-5  # nothing before position 6 depends on position 6 or later
    assert float(x.grad[:, :6].abs().min(dim=-1).values.max()) > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_quick_start_of_the_earlier_readme_runs_unchanged() -> None:
    names: dict[str, object] = {}
    exec(QUICK_START, names)
    model = names["model"]
    assert isinstance(model, STARBackbone)
    assert len(model.backbone.livs) == 24
    check_causal_and_trainable(model, 512)


@pytest.mark.parametrize("channels", list(ChannelMixingStructure))
@pytest.mark.parametrize("tokens", list(TokenMixingStructure))
@pytest.mark.parametrize("sparse", [False, True])
def test_every_mixing_is_causal_and_trainable(
    tokens: TokenMixingStructure, channels: ChannelMixingStructure, sparse: bool
) -> None:
    torch.manual_seed(0)
    nonlinearities: list[str | None] = {
        TokenMixingStructure.DIAGONAL: ["silu", "relu", None],
        TokenMixingStructure.LOW_RANK: ["softmax", "silu", "relu", None],
    }.get(tokens, [None])
    if sparse and tokens in (TokenMixingStructure.DIAGONAL, TokenMixingStructure.SEQUENTIAL_SEMI_SEPARABLE):
        with pytest.raises(StarError, match="no meaning"):
            LIVConfig(1, tokens, True, nonlinearities[0], channels).liv_class(1)
        return
    for nonlinearity in nonlinearities:
        config = LIVConfig(1, tokens, sparse, nonlinearity, channels)
        model = STARBackbone(32, 4, [[1, 1, 1, 1, 1], [1, 1, 2, 2, 1]], {1: config})
        check_causal_and_trainable(model, 32)


def test_depth_that_is_no_multiple_of_the_motif_is_refused() -> None:
    config = LIVConfig(1, TokenMixingStructure.DIAGONAL, nonlinearity="silu")
    with pytest.raises(StarError, match="no multiple"):
        STARBackbone(32, 5, [[1, 1, 1, 1, 1], [1, 2, 1, 2, 1]], {1: config})


DIAGONAL, LOW_RANK = TokenMixingStructure.DIAGONAL, TokenMixingStructure.LOW_RANK
TOEPLITZ, RECURRENT = TokenMixingStructure.SCALED_TOEPLITZ, TokenMixingStructure.SEQUENTIAL_SEMI_SEPARABLE
USUAL = {DIAGONAL: "silu", LOW_RANK: "softmax"}


def build(
    tokens: TokenMixingStructure, channels: ChannelMixingStructure, width: int = 128, **factors: int
) -> STARBackbone:
    config = LIVConfig(1, tokens, False, USUAL.get(tokens), channels, **factors)
    return STARBackbone(width, 1, [[1, 1, 1, 1, 1]], {1: config})


def parameters(model: STARBackbone) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("channels", list(ChannelMixingStructure))
@pytest.mark.parametrize("tokens", list(TokenMixingStructure))
@pytest.mark.parametrize("factor", ["expansion_factor", "repeat_factor"])
def test_every_factor_changes_the_size_or_is_refused(
    tokens: TokenMixingStructure, channels: ChannelMixingStructure, factor: str
) -> None:
    torch.manual_seed(0)
    one_head = channels is ChannelMixingStructure.DENSE and tokens in (LOW_RANK, RECURRENT)
    if tokens is TOEPLITZ or (factor == "repeat_factor" and one_head):
        with pytest.raises(StarError, match="act on x itself" if tokens is TOEPLITZ else "does not divide its 1 "):
            build(tokens, channels, **{factor: 2})
        return
    model, usual = build(tokens, channels, **{factor: 2}), build(tokens, channels)
    if factor == "expansion_factor":
        assert parameters(model) > parameters(usual)
    else:
        assert parameters(model) < parameters(usual)
    check_causal_and_trainable(model, 128)


def test_factors_change_what_they_name() -> None:
    def change(tokens: TokenMixingStructure, **factors: int) -> int:
        channels = ChannelMixingStructure.DENSE if tokens is DIAGONAL else ChannelMixingStructure.GROUPED
        return parameters(build(tokens, channels, **factors)) - parameters(build(tokens, channels))

    assert change(LOW_RANK, repeat_factor=2) == -128 * 128  # half of k and half of v
    assert change(LOW_RANK, expansion_factor=2) == 4 * 128 * 128  # q, k, v and the output map
    assert change(DIAGONAL, repeat_factor=2) == -128 * 384  # half of gate and half of up, 384 = 8/3 · 128 rounded up
    assert change(DIAGONAL, expansion_factor=2) == 3 * 128 * (704 - 384)
    # B and C have 16 more channels with 3 taps each; the 2 heads have 16 more decay rates.
    assert change(RECURRENT, expansion_factor=2) == 2 * 16 * 128 + 2 * 16


def test_a_repeat_that_does_not_divide_is_refused_with_the_reason() -> None:
    with pytest.raises(StarError, match="7 times, which does not divide"):
        build(DIAGONAL, ChannelMixingStructure.DENSE, repeat_factor=7)
