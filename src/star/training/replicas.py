"""Micro-batches side by side: data parallelism on the threads of one process.

PyTorch splits each operation among threads, which small models and kernels of one pass leave idle; whole micro-batches
keep them busy. What comes out is what micro-batches one after the other give, bit by bit, for models whose loss changes
nothing in them, draws no random numbers and hooks no accumulation of gradients.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextvars import copy_context
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from star.errors import StarError

Loss = Callable[[], Tensor]
Part = tuple[Tensor, tuple[Tensor | None, ...]]  # a loss, and its gradients


class Replicas:
    """`count` threads of Python, each with `threads` of PyTorch, that compute gradients of the same parameters; a
    single one is the caller's.

    A context: its end waits for what is being computed. Only an interrupted one does not; its threads end by
    themselves, with the forward or backward pass that they are in.
    """

    def __init__(self, count: int, threads: int) -> None:
        self._count, self._ended = count, threading.Event()
        self._pool = ThreadPoolExecutor(count, "replica", torch.set_num_threads, (threads,)) if count > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        if self._pool:
            self._pool.shutdown(wait=kind is not KeyboardInterrupt, cancel_futures=True)

    def accumulate(self, losses: Sequence[Loss], parameters: Sequence[Tensor]) -> list[Tensor]:
        """Adds the gradients of all `losses`, in this order, to those of the `parameters`; returns the losses' values.

        Raises:
            StarError: replicas would draw random numbers, in an order that is left to chance.
        """
        if self._pool is None:
            values = []
            for loss in losses:
                value = loss()
                value.backward()
                values.append(value.detach())
            return values
        before = torch.default_generator.get_state()
        values = [_added(part, parameters) for part in self._side_by_side(self._pool, losses, parameters)]
        if not torch.equal(before, torch.default_generator.get_state()):
            raise StarError("this model draws random numbers, which replicas would share: train it in a single one")
        return values

    def _side_by_side(
        self, pool: ThreadPoolExecutor, losses: Sequence[Loss], parameters: Sequence[Tensor]
    ) -> Iterator[Part]:
        """In order; gradients of as many are held at a time as there are replicas."""
        running: deque[Future[Part]] = deque()
        for loss in losses:
            if len(running) == self._count:
                yield running.popleft().result()
            running.append(pool.submit(copy_context().run, self._part, loss, parameters))
        while running:
            yield running.popleft().result()

    def _part(self, loss: Loss, parameters: Sequence[Tensor]) -> Part:
        value = loss()
        if self._ended.is_set():
            raise CancelledError
        return value.detach(), torch.autograd.grad(value, parameters, allow_unused=True)


@torch.no_grad()
def _added(part: Part, parameters: Sequence[Tensor]) -> Tensor:
    """Adds the gradients to those of the parameters; returns the loss."""
    value, gradients = part
    sums, terms = [], []
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        if parameter.grad is None:
            # In memory of its own, laid out like the parameter: what autograd gives may be one tensor for several.
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        else:
            sums.append(parameter.grad)
            terms.append(gradient)
    if sums:
        torch._foreach_add_(sums, terms)
    return value
