"""Low-rank LIVs without softmax against the sum over all pairs of positions, written as the formula reads.

Ours goes chunk by chunk and keeps a running sum of k ⊗ v; the reference forms every score. Both in float64.
"""

from __future__ import annotations

import pytest
import torch
from one_liv import backbone_of, check_cached, check_outputs_and_gradients, normed, random_input
from torch import Tensor

from star.backbone import Backbone
from star.genome import FeaturizerGenome, LivClass, OperatorGenome

WIDTH = 32
PLAIN, REPEATED = "1.1.1.1.2.1.1", "1.1.1.1.2.1.2"


def linear(operator: str, keys: str = PLAIN) -> LivClass:
    return LivClass(1, "LinAttn", OperatorGenome.parse(operator), FeaturizerGenome.parse(f"{PLAIN} {keys} {keys}"))


#: Class, heads, key heads: channel mixing grouped, grouped with repeated keys, dense, diagonal (no rotary: h is 1).
CLASSES = {
    "heads": (linear("12113"), 2, 2),
    "grouped keys": (linear("12113", REPEATED), 2, 1),
    "one head": (linear("12112"), 1, 1),
    "one head a channel": (linear("12111"), WIDTH, WIDTH),
}
SCORES = {1: lambda s: s, 3: lambda s: s.clamp(min=0), 4: lambda s: s / (1 + (-s).exp())}


def rotated(vectors: Tensor, position: int) -> Tensor:
    """Each pair of one vector [h] turned by its angle at this position, as in Su et al. 2024, eq. 34."""
    size = vectors.shape[-1]
    if size % 2:
        return vectors
    turned = []
    for i in range(size // 2):
        angle = torch.tensor(position * 10_000.0 ** (-2 * i / size), dtype=torch.float64)
        a, b = vectors[..., 2 * i], vectors[..., 2 * i + 1]
        turned += [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]
    return torch.stack(turned, -1)


def by_pairs(backbone: Backbone, heads: int, key_heads: int, x: Tensor, first: int = 0, score: int = 1) -> Tensor:
    """The residual block for x [B, ℓ, d] whose tokens before `first` are padding."""
    operator = backbone.livs[0].operators[0]
    weights = {name: group.project.weight for name, group in operator.featurizer.groups.items()}
    size, length = WIDTH // heads, x.shape[1]
    inputs = normed(backbone, x)
    outputs = []
    for head in range(heads):
        of = {"q": head, "k": head * key_heads // heads, "v": head * key_heads // heads}
        q, k, v = (inputs @ weights[name][of[name] * size : (of[name] + 1) * size].t() for name in "qkv")
        q, k = (torch.stack([rotated(t[:, p], p) for p in range(length)], 1) for t in (q, k))
        scores = SCORES[score](torch.einsum("bih,bjh->bij", q, k) / size**0.5)
        i, j = torch.arange(length)[:, None], torch.arange(length)
        seen = (j <= i) & (j >= first)
        outputs.append((scores * seen / seen.sum(-1, keepdim=True).clamp(min=1)) @ v)
    return x + torch.cat(outputs, -1) @ operator.output.weight.t()


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 130])
@pytest.mark.parametrize("name", CLASSES)
def test_outputs_and_gradients(name: str, length: int) -> None:
    row, heads, key_heads = CLASSES[name]
    backbone = backbone_of(row, WIDTH)
    x = random_input(2, length, WIDTH)
    check_outputs_and_gradients(backbone, lambda x: by_pairs(backbone, heads, key_heads, x), x)


@pytest.mark.parametrize("name", CLASSES)
def test_cached(name: str) -> None:
    row, heads, key_heads = CLASSES[name]
    backbone = backbone_of(row, WIDTH)
    check_cached(backbone, lambda x: by_pairs(backbone, heads, key_heads, x), random_input(2, 150, WIDTH))


@pytest.mark.parametrize("name", CLASSES)
def test_left_padding(name: str) -> None:
    row, heads, key_heads = CLASSES[name]
    backbone = backbone_of(row, WIDTH)
    x, pads = random_input(2, 100, WIDTH), 37
    mask = torch.ones(2, 100, dtype=torch.bool)
    mask[0, :pads] = False
    with torch.no_grad():
        ours = backbone(x, mask=mask)
        torch.testing.assert_close(
            ours[0, pads:], by_pairs(backbone, heads, key_heads, x[:1], pads)[0, pads:], rtol=1e-11, atol=1e-11
        )
        torch.testing.assert_close(ours[1:], by_pairs(backbone, heads, key_heads, x[1:]), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("operator", ["12133", "12143"], ids=["relu", "swish"])
def test_scores_with_a_nonlinearity(operator: str) -> None:
    backbone = backbone_of(linear(operator), WIDTH)
    x = random_input(2, 70, WIDTH)

    def reference(x: Tensor) -> Tensor:
        return by_pairs(backbone, 2, 2, x, score=int(operator[3]))

    check_outputs_and_gradients(backbone, reference, x)
    check_cached(backbone, reference, x)


def test_float32_stays_close_over_a_thousand_tokens() -> None:
    """The running sums are accumulated in float32 whatever the length; the error of the average does not grow."""
    row, heads, key_heads = CLASSES["heads"]
    backbone = backbone_of(row, WIDTH)
    x = random_input(1, 1000, WIDTH)
    with torch.no_grad():
        expected = by_pairs(backbone, heads, key_heads, x)
        single = backbone.float()(x.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=1e-5)
