"""What is computed from weights once and used for many tokens."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from torch import nn

T = TypeVar("T")


class WeightCache(Generic[T]):
    """Remembers one value for as long as neither its key nor any of the weights that it was made from changes."""

    def __init__(self) -> None:
        self._held: tuple[Hashable, T] | None = None

    def get(self, weights: Iterable[nn.Parameter], key: Hashable, make: Callable[[], T]) -> T:
        """The value of `make()`, called only where it is not known. Weights made in inference mode do not tell when
        they change, so nothing of theirs is remembered."""
        weights = list(weights)
        if any(weight.is_inference() for weight in weights):
            return make()
        whole = (key, tuple((weight.data_ptr(), weight._version) for weight in weights))
        if self._held is None or self._held[0] != whole:
            self._held = (whole, make())
        return self._held[1]
