"""A training step of pairs of softmax attention and the gated unit, written out by hand in operations of PyTorch.

No automatic differentiation, no modules, and hardly any memory that is asked for twice: each operation writes where the
next one reads, some sequences at a time. Scales of norms count as parts of the weights that follow them. It shows what
a version made of PyTorch's operations can come to; `training.py` shows its time beside those of real ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SEQUENCES = 8  # at a time, if that divides a batch; measured: 16 and 4 take as long, 2 longer

attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
silu, silu_backward = torch.ops.aten.silu.out, torch.ops.aten.silu_backward.grad_input


class Pair:
    """Weights of a pair with their gradients, and what the way back needs of its tokens [n, ·]."""

    def __init__(self, weights: list[nn.Parameter], tokens: int) -> None:
        self.qkv_map, self.out_map, self.gate_map, self.up_map, self.down_map = weights
        hidden, width = self.gate_map.shape
        self.x, self.normed, self.between, self.unit_normed = (torch.empty(tokens, width) for _ in range(4))
        self.gate, self.up, self.opened, self.product = (torch.empty(tokens, hidden) for _ in range(4))
        self.scale, self.unit_scale = torch.empty(tokens, 1), torch.empty(tokens, 1)
        self.qkv = torch.empty(tokens, 3 * width)


class ByHand(nn.Module):
    """`loss` fills the gradients of all parameters. Nothing is learnt: it takes as long as a step that learns."""

    def __init__(self, pairs: int, width: int, hidden: int, vocab: int, batch: int, length: int, heads: int) -> None:
        super().__init__()
        self.sequences, self.length, self.heads = math.gcd(SEQUENCES, batch), length, heads
        sizes = [(3 * width, width), (width, width), (hidden, width), (hidden, width), (width, hidden)]
        weights = [nn.Parameter(width**-0.5 * torch.randn(size)) for size in [*sizes * pairs, (vocab, width)]]
        self.weights, self.embedding = nn.ParameterList(weights), weights[-1]
        tokens = self.sequences * length
        self.pairs = [Pair(weights[5 * number : 5 * number + 5], tokens) for number in range(pairs)]
        self.y, self.d_y, self.d_z, self.d_attended = (torch.empty(tokens, width) for _ in range(4))
        self.d_product, self.d_gate, self.d_up = (torch.empty(tokens, hidden) for _ in range(3))
        self.logits, self.d_qkv = torch.empty(tokens, vocab), torch.empty(tokens, 3 * width)
        self.slope = torch.empty(tokens)
        turns = torch.polar(torch.ones(length, 1, width // heads // 2), torch.randn(length, 1, width // heads // 2))
        self.turns = turns.expand(-1, 2 * heads, -1).contiguous()
        self.turns_back = self.turns.conj().resolve_conj()

    @torch.no_grad()
    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """tokens, targets: [B, L]."""
        for weight in self.weights:
            weight.grad = torch.zeros_like(weight)
        parts = zip(tokens.split(self.sequences), targets.split(self.sequences), strict=True)
        return torch.stack([self._part(part.flatten(), wanted.flatten()) for part, wanted in parts]).mean()

    def _part(self, tokens: Tensor, targets: Tensor) -> Tensor:
        torch.index_select(self.embedding, 0, tokens, out=self.pairs[0].x)
        for pair, out in zip(self.pairs, [*(pair.x for pair in self.pairs[1:]), self.y], strict=True):
            self._attention(pair)
            self._unit(pair, out)
        torch.mm(self.y, self.embedding.t(), out=self.logits)
        torch.softmax(self.logits, 1, out=self.logits)
        loss = self.logits.gather(1, targets[:, None]).log_().mean().neg_()
        self.logits.scatter_add_(1, targets[:, None], torch.full((len(targets), 1), -1.0))
        torch.mm(self.logits, self.embedding, out=self.d_y)
        self.embedding.grad.addmm_(self.logits.t(), self.y)
        for pair in reversed(self.pairs):
            self._unit_back(pair)
            self._attention_back(pair)
        self.embedding.grad.index_add_(0, tokens, self.d_y)
        return loss

    def _attention(self, pair: Pair) -> None:
        _norm(pair.x, pair.scale, pair.normed)
        torch.mm(pair.normed, pair.qkv_map.t(), out=pair.qkv)
        pairs = torch.view_as_complex(self._by_heads(pair.qkv).unflatten(-1, (-1, 2)))
        pairs[:, :, : 2 * self.heads].mul_(self.turns)
        pair.attended, pair.sums = attend(*self._qkv(pair.qkv), 0.0, True)
        pair.flat = pair.attended.transpose(1, 2).flatten(0, 1).flatten(1)
        torch.addmm(pair.x, pair.flat, pair.out_map.t(), out=pair.between)

    def _unit(self, pair: Pair, out: Tensor) -> None:
        _norm(pair.between, pair.unit_scale, pair.unit_normed)
        torch.mm(pair.unit_normed, pair.gate_map.t(), out=pair.gate)
        torch.mm(pair.unit_normed, pair.up_map.t(), out=pair.up)
        silu(pair.gate, out=pair.opened)
        torch.mul(pair.opened, pair.up, out=pair.product)
        torch.addmm(pair.between, pair.product, pair.down_map.t(), out=out)

    def _unit_back(self, pair: Pair) -> None:
        pair.down_map.grad.addmm_(self.d_y.t(), pair.product)
        torch.mm(self.d_y, pair.down_map, out=self.d_product)
        torch.mul(self.d_product, pair.opened, out=self.d_up)
        silu_backward(self.d_product.mul_(pair.up), pair.gate, grad_input=self.d_gate)
        pair.gate_map.grad.addmm_(self.d_gate.t(), pair.unit_normed)
        pair.up_map.grad.addmm_(self.d_up.t(), pair.unit_normed)
        torch.mm(self.d_gate, pair.gate_map, out=self.d_z)
        self.d_z.addmm_(self.d_up, pair.up_map)
        self._norm_back(pair.unit_normed, pair.unit_scale)

    def _attention_back(self, pair: Pair) -> None:
        pair.out_map.grad.addmm_(self.d_y.t(), pair.flat)
        torch.mm(self.d_y, pair.out_map, out=self.d_attended)
        d_attended = self._by_heads(self.d_attended).transpose(1, 2)
        gradients = attend_backward(d_attended, *self._qkv(pair.qkv), pair.attended, pair.sums, 0.0, True)
        d_qkv = self._by_heads(self.d_qkv).unflatten(2, (3, self.heads))
        for place, gradient in enumerate(gradients):
            if place == 2:
                d_qkv[:, :, place].copy_(gradient.transpose(1, 2))
            else:
                turned = torch.view_as_complex(d_qkv[:, :, place].unflatten(-1, (-1, 2)))
                pairs = torch.view_as_complex(gradient.transpose(1, 2).unflatten(-1, (-1, 2)))
                torch.mul(pairs, self.turns_back[:, : self.heads], out=turned)
        pair.qkv_map.grad.addmm_(self.d_qkv.t(), pair.normed)
        torch.mm(self.d_qkv, pair.qkv_map, out=self.d_z)
        self._norm_back(pair.normed, pair.scale)

    def _norm_back(self, normed: Tensor, scale: Tensor) -> None:
        """Adds the gradient of a norm's input to that of the stream."""
        torch.linalg.vecdot(self.d_z, normed, out=self.slope)
        self.d_z.addcmul_(normed, self.slope[:, None], value=-1 / normed.shape[1])
        self.d_y.addcmul_(self.d_z, scale)

    def _by_heads(self, x: Tensor) -> Tensor:
        """[n, ·] as [sequences, L, heads of it, size]."""
        return x.view(-1, self.length, x.shape[1] // self.d_y.shape[1] * self.heads, self.d_y.shape[1] // self.heads)

    def _qkv(self, qkv: Tensor) -> tuple[Tensor, ...]:
        return self._by_heads(qkv).transpose(1, 2).chunk(3, 1)


def _norm(x: Tensor, scale: Tensor, normed: Tensor) -> None:
    """One over the root mean square of each row into `scale`, and each row times that into `normed`."""
    torch.linalg.vector_norm(x, dim=1, keepdim=True, out=scale)
    torch.mul(x, scale.reciprocal_().mul_(x.shape[1] ** 0.5), out=normed)
