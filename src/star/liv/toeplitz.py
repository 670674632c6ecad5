"""Scaled Toeplitz token mixing: gated convolutions (A.6.2, GConv-1 and GConv-2) and state spaces (S4-1, S4-Monarch)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from star.genome import LivClass, Parametrization, Sparsity
from star.liv.featurizer import Featurizer
from star.liv.kernels.convolution import gated_short_convolution, short_convolution
from star.liv.kernels.long_convolution import long_convolution
from star.liv.kernels.projections import without_autocast
from star.liv.maps import activate
from star.liv.mixer import Features
from star.liv.sizes import SHORT_TAPS, mixing_heads
from star.liv.state import Call, OperatorState, Slot, append, replace, slide
from star.liv.state_space import StateSpaceKernel, absorb, advance, respond, restored, stored


class ToeplitzMixer(nn.Module):
    """T_ij = C_i K_{i-j} B_j for j ≤ i, channel by channel: y = C ⊙ (K * (B ⊙ x)).

    An explicit K has three taps; an implicit one is as long as the context (banded: the window) and is applied by FFT,
    token by token as a dot product with the stored u = B ⊙ x, or, where K is a fixed state space, as a recurrence.
    """

    def __init__(self, row: LivClass, width: int) -> None:
        super().__init__()
        self.channels = width
        self.repeat = width // mixing_heads(row, width)
        self.explicit = row.groups["K"].parametrization is Parametrization.EXPLICIT
        self.nonlinearity = row.groups["K"].nonlinearity
        self.sparsity = row.operator.sparsity
        self.window = row.window
        self.recurrent = row.groups["K"].state_space and self.sparsity is Sparsity.NONE
        self.state_size = row.groups["K"].expansion

    remembered = frozenset({"B"})

    @property
    def reach(self) -> int | None:
        """How many tokens K spans, the present one included; None for all of the past."""
        if self.explicit:
            return SHORT_TAPS if self.sparsity is Sparsity.NONE else min(SHORT_TAPS, self.window)
        return None if self.sparsity is Sparsity.NONE else self.window

    def slots(self, max_length: int, taken: frozenset[str]) -> list[Slot]:
        if self.recurrent:
            return [Slot("h", (self.channels, self.state_size), accumulated=True)]
        if self.reach is None:  # time last: decoding is a dot product over it
            return [Slot("u", (self.channels, max_length), positional=True)]
        length = min(self.reach - 1, max_length)
        return [Slot("u", (length, self.channels))] if length else []

    def prepare(self, features: Features, call: Call, state: OperatorState | None) -> Features:
        return features

    def materialize(self, x: Tensor, features: Features, featurizer: Featurizer, call: Call) -> Tensor:
        length = x.shape[1]
        positions = torch.arange(length, device=x.device)
        lag = positions[:, None] - positions
        kernel = self._kernel(featurizer, length)
        kernel = functional.pad(kernel, (0, max(0, length - kernel.shape[1])))
        seen = (lag >= 0) & (lag < (self.reach or length))
        if self.sparsity is Sparsity.BLOCK_DIAGONAL:
            seen &= positions[:, None] // self.window == positions // self.window
        matrix = kernel[:, lag.clamp(min=0)] * seen  # d ℓ ℓ
        return features["C"].transpose(1, 2)[..., None] * matrix * features["B"].transpose(1, 2)[..., None, :]

    def content(self, x: Tensor, features: Features) -> Tensor:
        return x

    def forward(
        self, x: Tensor, features: Features, featurizer: Featurizer, call: Call, state: OperatorState | None
    ) -> Tensor:
        kept = state is not None and "u" in state
        if self.explicit and self.sparsity is not Sparsity.BLOCK_DIAGONAL and not kept:
            return gated_short_convolution(x, features["B"], features["C"], self._taps(featurizer))
        u = features["B"] * x
        if self.recurrent:
            y = self._state_space(u, featurizer, call, state)
        elif self.reach is None:
            y = self._long(u, featurizer, call, state)
        else:
            past = slide(state, "u", call.position, u) if state is not None and "u" in state else None
            if self.sparsity is Sparsity.BLOCK_DIAGONAL:
                y = self._within_blocks(u, past, featurizer, call)
            elif self.explicit:
                y = short_convolution(u, self._taps(featurizer), past)
            else:
                everything = u if past is None else torch.cat([past.to(u.dtype), u], dim=1)
                y = long_convolution(everything, self._kernel(featurizer, self.reach))[:, -u.shape[1] :]
        return features["C"] * y

    def advance(self, x: Tensor, features: Features, featurizer: Featurizer, call: Call, state: OperatorState) -> None:
        u = features["B"] * x
        if self.recurrent:
            self._absorb(u, featurizer, state)
        elif self.reach is None:
            append(state, "u", call.position, u.transpose(1, 2), dim=2)
        elif "u" in state:
            slide(state, "u", call.position, u)

    def _state_space(self, u: Tensor, featurizer: Featurizer, call: Call, state: OperatorState | None) -> Tensor:
        """Without a past as a convolution, one token as a step of the recurrence, a chunk as both."""
        if state is None:
            return long_convolution(u, self._kernel(featurizer, u.shape[1]))
        kernel: StateSpaceKernel = featurizer.groups["K"]  # type: ignore[assignment]
        with without_autocast(u):
            h = restored(state["h"], kernel.modes.paired)
            if u.shape[1] == 1 and not torch.is_grad_enabled():
                space = call.once((kernel, self.repeat), lambda: kernel.sampled(self.repeat))
                y, h = advance(space, h, u[:, 0])
                replace(state, "h", stored(h))
                return y.unsqueeze(1).to(u.dtype)
            past = respond(kernel.sampled(self.repeat), h, u.shape[1])
        y = long_convolution(u, self._kernel(featurizer, u.shape[1])) + past.to(u.dtype)
        self._absorb(u, featurizer, state)
        return y

    def _absorb(self, u: Tensor, featurizer: Featurizer, state: OperatorState) -> None:
        kernel: StateSpaceKernel = featurizer.groups["K"]  # type: ignore[assignment]
        with without_autocast(u):
            h = absorb(kernel.sampled(self.repeat), restored(state["h"], kernel.modes.paired), u)
        replace(state, "h", stored(h))

    def _kernel(self, featurizer: Featurizer, length: int) -> Tensor:
        """K for lags 0 … length - 1, [d, length], fewer where it is shorter."""
        kernel = activate(featurizer.kernel(length), self.nonlinearity)
        return kernel if self.repeat == 1 else kernel.repeat_interleave(self.repeat, dim=0)

    def _taps(self, featurizer: Featurizer) -> Tensor:
        """An explicit K with the last lag first: [d, taps]."""
        return self._kernel(featurizer, self.reach or SHORT_TAPS).flip(1)

    def _long(self, u: Tensor, featurizer: Featurizer, call: Call, state: OperatorState | None) -> Tensor:
        """With all of the past. One token at a time nothing is allocated that grows with it: K is made once, last
        lag first, and each token is one dot product."""
        if state is None:
            return long_convolution(u, self._kernel(featurizer, u.shape[1]))
        seen = append(state, "u", call.position, u.transpose(1, 2), dim=2)  # B d (position + ℓ)
        length = seen.shape[2]
        if u.shape[1] > 1 or torch.is_grad_enabled():
            y = long_convolution(seen.transpose(1, 2).to(u.dtype), self._kernel(featurizer, length))
            return y[:, length - u.shape[1] :]
        kernel = self.latest_first(featurizer, state["u"], call)[:, -length:]
        return torch.bmm(seen.transpose(0, 1), kernel.unsqueeze(2)).permute(1, 2, 0).to(u.dtype)  # d B 1 -> B 1 d

    def latest_first(self, featurizer: Featurizer, past: Tensor, call: Call) -> Tensor:
        """K for all that a slot `past` [B, d, length] has room for, last lag first: [d, length], made once."""
        kernels, size = featurizer.groups["K"], past.shape[2]
        return call.once((kernels, self.repeat), lambda: self._kernel(featurizer, size).flip(1).to(past.dtype))

    def _within_blocks(self, u: Tensor, past: Tensor | None, featurizer: Featurizer, call: Call) -> Tensor:
        """The convolution restarted every `window` tokens. Each sequence is moved so that its blocks line up."""
        length = u.shape[1]
        everything = u if past is None else torch.cat([past.to(u.dtype), u], dim=1)
        last = everything.shape[1]
        front = call.within_block(self.window, last, length, u.device)[:, :1]  # of the block that the first u stands in
        size = last + self.window - 1
        size += -size % self.window
        places = (torch.arange(last, device=u.device) + front).expand(u.shape[0], -1)[..., None].expand_as(everything)
        aligned = u.new_zeros(u.shape[0], size, self.channels).scatter(1, places, everything)
        blocks = aligned.unflatten(1, (-1, self.window)).flatten(0, 1)
        y = long_convolution(blocks, self._kernel(featurizer, self.window))
        y = y.unflatten(0, (-1, size // self.window)).flatten(1, 2)
        return y.gather(1, places)[:, last - length :]
