"""The selective scan in PyTorch, on every device: `selective_scan` has the equations.

It works through some sequences at a time, and through their time in segments, so that what it works on stays in a CPU's
cache; memory for a segment is taken once. It keeps only the states between segments and recomputes the rest backward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from star.liv.kernels.scan import scan_, segment_length

STEP_ELEMENTS = 1 << 15  # of h that a step works on at most: enough to outweigh calls, and a segment stays small


class PortableScan(torch.autograd.Function):
    """x, Δ [B, ℓ, D], A [N, D], b, c [B, ℓ, N], state [B, N, D] and keep [1 or B, ℓ] or None → C h [B, ℓ, D] and the
    last state, all of one dtype."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor, decay: Tensor, b: Tensor, c: Tensor, state: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        cut = _Cut.of(x, decay)
        output, last = torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(state)
        starts = state.new_empty((cut.segments, *state.shape))
        for rows in cut.rows():
            h = state[rows]
            a_memory, memory = cut.memory(h, 2)
            for number, part in enumerate(cut.parts()):
                starts[number, rows] = h
                u, step, into, out = _first(rows, part, x, delta, b, c)
                a, value, _ = _terms(u, step, into, decay, _kept(keep, rows, part), a_memory, memory)
                value[0].addcmul_(a[0], h)
                scan_(a, value)
                output[rows, part] = (out.unsqueeze(-2) @ value).squeeze(-2).transpose(0, 1)
                h = value[-1].clone()
            last[rows] = h
        ctx.save_for_backward(x, delta, decay, b, c, keep, starts)
        return output, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor, d_state: Tensor) -> tuple[Tensor | None, ...]:
        x, delta, decay, b, c, keep, starts = ctx.saved_tensors
        cut = _Cut.of(x, decay)
        d_x, d_delta, d_b, d_c = (
            torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (x, delta, b, c)
        )
        d_decay, d_start = torch.zeros_like(decay), torch.empty_like(d_state)
        for rows in cut.rows():
            carry = d_state[rows]
            a_memory, *memory = cut.memory(carry, 4)
            for number, part in reversed(list(enumerate(cut.parts()))):
                u, step, into, out, d_y = _first(rows, part, x, delta, b, c, d_output)
                kept = _kept(keep, rows, part)
                a, h, scaled = _terms(u, step, into, decay, kept, a_memory, memory[0])
                start = starts[number, rows]
                h[0].addcmul_(a[0], start)
                scan_(a, h)
                g, product = (one[: len(a)] for one in memory[1:])
                torch.mul(out.unsqueeze(-1), d_y.unsqueeze(-2), out=g)  # S B N D
                g[-1].add_(carry)
                following = a_memory[1 : len(a) + 1]
                following[-1] = 0
                scan_(following, g, reverse=True)
                # Row times matrix: several times faster than matrix times column.
                d_c[rows, part] = (d_y.unsqueeze(-2) @ h.mT).squeeze(-2).transpose(0, 1)
                d_b[rows, part] = (scaled.unsqueeze(-2) @ g.mT).squeeze(-2).transpose(0, 1)
                d_scaled = (into.unsqueeze(-2) @ g).squeeze(-2)
                carry = a[0] * g[0]
                # g ⊙ a ⊙ h_{t-1}: the gradient of the exponent Δ A.
                g.mul_(a)
                g[1:].mul_(h[:-1])
                g[0].mul_(start)
                d_x[rows, part] = (d_scaled * step).transpose(0, 1)
                torch.mul(g, decay, out=product)
                d_delta[rows, part] = product.sum(-2).addcmul_(d_scaled, u).transpose(0, 1)
                torch.mul(g, step.unsqueeze(-2), out=product)
                d_decay += product.sum((0, 1))
            d_start[rows] = carry
        return d_x, d_delta, d_decay, d_b, d_c, d_start, None


@dataclass(frozen=True)
class _Cut:
    """How the portable scan is cut: `many` sequences at a time, segments of `step` tokens."""

    batch: int
    length: int
    many: int
    step: int

    @classmethod
    def of(cls, x: Tensor, decay: Tensor) -> _Cut:
        batch, length = x.shape[:2]
        size = max(1, decay.numel())
        many = batch if x.device.type != "cpu" else min(batch, max(1, STEP_ELEMENTS // size))
        return cls(batch, length, max(1, many), max(1, min(length, segment_length(many * size))))

    @property
    def segments(self) -> int:
        return -(-self.length // self.step)

    def rows(self) -> list[slice]:
        return [slice(row, row + self.many) for row in range(0, self.batch, self.many)]

    def parts(self) -> list[slice]:
        return [slice(start, min(start + self.step, self.length)) for start in range(0, self.length, self.step)]

    def memory(self, h: Tensor, count: int) -> list[Tensor]:
        """[step, *] for each of `count` tensors of states, the first with a row more."""
        return [h.new_empty((self.step + (number == 0), *h.shape)) for number in range(count)]


def _first(rows: slice, part: slice, *tensors: Tensor) -> list[Tensor]:
    """Some sequences and a segment, time first and contiguous."""
    return [tensor[rows, part].transpose(0, 1).contiguous() for tensor in tensors]


def _kept(keep: Tensor | None, rows: slice, part: slice) -> Tensor | None:
    """[S, 1 or rows]: `keep` of some sequences and a segment, time first."""
    return None if keep is None else (keep if keep.shape[0] == 1 else keep[rows])[:, part].t()


def _terms(
    x: Tensor, delta: Tensor, b: Tensor, decay: Tensor, keep: Tensor | None, a: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Decays and inputs of h, written into memory [at least S, B, N, D], and Δ x."""
    a, value = a[: x.shape[0]], value[: x.shape[0]]
    torch.mul(delta.unsqueeze(-2), decay, out=a).exp_()
    if keep is not None:
        a *= keep[..., None, None]
    scaled = delta * x
    return a, torch.mul(b.unsqueeze(-1), scaled.unsqueeze(-2), out=value), scaled
