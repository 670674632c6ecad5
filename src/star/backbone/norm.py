"""The norm of a residual stream."""

from __future__ import annotations

from torch import Tensor, nn

from star.liv.kernels.rms_norm import add_rms_norm

EPSILON = 1e-5


class RMSNorm(nn.RMSNorm):
    """y = w ⊙ x / √(mean(x²) + ε) over the last dimension, one pass over memory with the addition before it."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return add_rms_norm(x, None, self.weight, EPSILON)[1]

    def after(self, x: Tensor, update: Tensor | None) -> tuple[Tensor, Tensor]:
        """x + update, and its norm."""
        return add_rms_norm(x, update, self.weight, EPSILON)
