"""Linear recurrences in parallel: h_t = a_t ⊙ h_{t-1} + b_t.

Time is dim 0. Where a step is large enough to outweigh the call of an operation, a scan goes step by step. Else it
works on chunks of `CHUNK` steps, all chunks at once, then recursively on the chunk ends, so the number of tensor
operations grows with log ℓ, never with ℓ. Only products of decays are formed (no logarithms, no divisions), so strong
decays underflow to the right answer, zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 16
LARGE_STEP = 1 << 10  # elements; above, the products of decays that chunks need cost more than single steps
SEGMENT_ELEMENTS = 1 << 18  # state elements worked on at a time: keeps the working set of a segment inside the cache


class Scan:
    """`scan_` in memory that is used again and again: views of single steps are made once."""

    def __init__(self, decay: Tensor, value: Tensor, *, reverse: bool = False) -> None:
        """`decay` and `value`: contiguous [ℓ, …] of one shape."""
        self._decay, self._value, self._reverse = decay, value, reverse
        self._steps: list[tuple[Tensor, Tensor, Tensor]] | None = None
        if value[:1].numel() >= LARGE_STEP and value.device.type == "cpu":
            factors, values = decay.unbind(0), value.unbind(0)
            triples = (
                zip(factors[:-1], values[1:], values[:-1], strict=True)
                if reverse
                else zip(factors[1:], values[:-1], values[1:], strict=True)
            )
            self._steps = list(triples)

    def __call__(self, length: int) -> None:
        """Scan what the first `length` ≥ 1 rows hold now."""
        if self._steps is None:
            _chunked(self._decay[:length].clone(), self._value[:length], reverse=self._reverse)
            return
        steps = self._steps[: length - 1]
        for factor, before, now in reversed(steps) if self._reverse else steps:
            now.addcmul_(factor, before)


def scan_(decay: Tensor, value: Tensor, *, reverse: bool = False) -> None:
    """In place: `value` becomes h with h_t = decay_t ⊙ h_{t-1} + value_t (t+1 for `reverse`), h = 0 outside.

    `decay` and `value` are contiguous [ℓ, …] of one shape; `decay` stays as it is, and that of the first step in scan
    order is not looked at.
    """
    Scan(decay, value, reverse=reverse)(len(value))


def _chunked(decay: Tensor, value: Tensor, *, reverse: bool) -> None:
    """`scan_` in chunks; `decay` becomes the product of all decays since the start."""
    length = value.shape[0]
    if length < 2 * CHUNK:
        steps = range(length - 2, -1, -1) if reverse else range(1, length)
        for t in steps:
            before = t + 1 if reverse else t - 1
            value[t].addcmul_(decay[t], value[before])
            decay[t].mul_(decay[before])
        return
    whole = length // CHUNK * CHUNK
    # The steps that do not fill a chunk come last in scan order.
    main = slice(length - whole, length) if reverse else slice(0, whole)
    rest = slice(0, length - whole) if reverse else slice(whole, length)
    a = decay[main].unflatten(0, (-1, CHUNK))
    b = value[main].unflatten(0, (-1, CHUNK))
    for j in range(CHUNK - 2, -1, -1) if reverse else range(1, CHUNK):
        before = j + 1 if reverse else j - 1
        b[:, j].addcmul_(a[:, j], b[:, before])
        a[:, j].mul_(a[:, before])
    end = 0 if reverse else CHUNK - 1
    end_decay, end_value = a[:, end].contiguous(), b[:, end].contiguous()
    _chunked(end_decay, end_value, reverse=reverse)
    if reverse:
        b[:-1].addcmul_(a[:-1], end_value[1:].unsqueeze(1))
        a[:-1].mul_(end_decay[1:].unsqueeze(1))
    else:
        b[1:].addcmul_(a[1:], end_value[:-1].unsqueeze(1))
        a[1:].mul_(end_decay[:-1].unsqueeze(1))
    if length > whole:
        edge_decay, edge_value = (a[0, 0], b[0, 0]) if reverse else (a[-1, -1], b[-1, -1])
        tail_decay, tail_value = decay[rest], value[rest]
        _chunked(tail_decay, tail_value, reverse=reverse)
        tail_value.addcmul_(tail_decay, edge_value)
        tail_decay.mul_(edge_decay)


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor, value: Tensor, state: Tensor) -> Tensor:
        h = value.clone(memory_format=torch.contiguous_format)
        h[0].addcmul_(decay[0], state)
        scan_(decay.contiguous(), h)
        ctx.save_for_backward(decay, state, h)
        return h

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, state, h = ctx.saved_tensors
        g = gradient.clone(memory_format=torch.contiguous_format)
        following = torch.empty_like(decay, memory_format=torch.contiguous_format)
        following[:-1] = decay[1:].conj()
        scan_(following, g, reverse=True)
        d_decay = g * torch.cat([state.unsqueeze(0), h[:-1]]).conj()
        return d_decay, g, g[0] * decay[0].conj()


def linear_scan(decay: Tensor, value: Tensor, state: Tensor) -> Tensor:
    """All h_t = decay_t ⊙ h_{t-1} + value_t, real or complex. decay, value: [ℓ, …] of one shape; state: […], the h
    before the first position. Returns [ℓ, …]."""
    return _LinearScan.apply(decay, value, state)


def segment_length(elements: int, most: int | None = None, whole: int = CHUNK) -> int:
    """Steps to work through at a time where one step has `elements` state elements: so many that `most` elements are
    enough for them (by default SEGMENT_ELEMENTS), but no fewer than `whole`, and a multiple of that."""
    return max(whole, (most or SEGMENT_ELEMENTS) // max(1, elements) // whole * whole)
