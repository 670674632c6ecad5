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

from star.liv.kernels.scan import Scan, segment_length

STEP_ELEMENTS = 1 << 14  # of h that a step works on at most: enough to outweigh calls, and a segment stays small
CACHED_ELEMENTS = 1 << 17  # of h in a segment: four tensors of that size fit a CPU's second-level cache
SHORTEST = 8  # steps of such a segment


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
            a_memory, memory = cut.memory(state[rows], 2)
            scan, following = Scan(a_memory[:-1], memory), state[rows]
            for start, part in zip(starts[:, rows], cut.parts(), strict=True):
                start.copy_(following)
                u, step, into, out = _first(rows, part, x, delta, b, c)
                a, h, _ = _terms(u, step, into, decay, _kept(keep, rows, part), a_memory, memory)
                h[0].addcmul_(a[0], start)
                scan(len(a))
                output[rows, part] = _product(out, h).transpose(0, 1)
                following = h[-1]
            last[rows] = following
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
            scan, adjoint = Scan(a_memory[:-1], memory[0]), Scan(a_memory[1:], memory[1], reverse=True)
            for start, part in reversed(list(zip(starts[:, rows], cut.parts(), strict=True))):
                u, step, into, out, d_y = _first(rows, part, x, delta, b, c, d_output)
                kept = _kept(keep, rows, part)
                a, h, scaled = _terms(u, step, into, decay, kept, a_memory, memory[0])
                h[0].addcmul_(a[0], start)
                scan(len(a))
                g, product = (one[: len(a)] for one in memory[1:])
                torch.mul(out.unsqueeze(-1), d_y.unsqueeze(-2), out=g)  # S B N D
                g[-1].add_(carry)
                adjoint(len(a))
                # Row times matrix: several times faster than matrix times column.
                d_c[rows, part] = _product(d_y, h.mT).transpose(0, 1)
                d_b[rows, part] = _product(scaled, g.mT).transpose(0, 1)
                d_scaled = _product(into, g)
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
        if x.device.type == "cpu":
            many = min(batch, max(1, STEP_ELEMENTS // size))
            step = segment_length(many * size, CACHED_ELEMENTS, SHORTEST)
        else:
            many, step = batch, segment_length(batch * size)
        return cls(batch, length, max(1, many), max(1, min(length, step)))

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


def _product(rows: Tensor, matrices: Tensor) -> Tensor:
    """rows [S, B, n] times matrices [S, B, n, m]: [S, B, m]."""
    return torch.bmm(rows.flatten(0, 1).unsqueeze(1), matrices.flatten(0, 1)).view(*rows.shape[:2], -1)
