"""How the outputs of parallel paths are combined: a learned mixer, and a router that is itself a recurrence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from star.genome import Routing
from star.liv import OperatorState, Slot
from star.liv.kernels.projections import without_autocast
from star.liv.kernels.scan import linear_scan
from star.liv.maps import Dense, undecayed
from star.liv.shift import spread_
from star.liv.state import replace

RATE_RANGE = (1e-2, 1.0)  # of the router's Δ at initialisation, log-uniform: memories of 1 to 100 tokens


class WeightMixer(nn.Module):
    """w_p = softmax over the paths of learned logits, channel by channel; equal at first."""

    def __init__(self, width: int, paths: int) -> None:
        super().__init__()
        self.logits = undecayed(nn.Parameter(torch.empty(paths, width)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.logits)

    def slots(self) -> list[Slot]:
        return []

    def forward(self, x: Tensor, state: OperatorState | None) -> Tensor:
        """[paths, 1, 1, d]."""
        return self.logits.softmax(0)[:, None, None]


class LiquidRouter(nn.Module):
    """w = softmax over the paths of h_t + b, with the state of a liquid time-constant cell for each path,
    h_t = e^{-Δ_t} h_{t-1} + (1 - e^{-Δ_t}) target(x_t).

    Rate Δ_t = softplus(·) and target depend on x_t alone, so the whole sequence is one scan. Padding, where x is 0,
    leaves h as it is: empty.
    """

    def __init__(self, width: int, paths: int) -> None:
        super().__init__()
        self.paths = paths
        self.rate = Dense(width, paths)
        self.target = Dense(width, paths)
        self.rate_bias = undecayed(nn.Parameter(torch.empty(paths)))
        self.bias = undecayed(nn.Parameter(torch.empty(paths)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.bias)
        spread_(self.rate_bias, *RATE_RANGE)

    def slots(self) -> list[Slot]:
        return [Slot("h", (self.paths,), accumulated=True)]

    def forward(self, x: Tensor, state: OperatorState | None) -> Tensor:
        """x: [B, ℓ, d] → weights [paths, B, ℓ, 1]; advances the state."""
        real = torch.promote_types(x.dtype, torch.float32)
        rate, target = self.rate(x).to(real), self.target(x).to(real)
        decay = torch.exp(-nn.functional.softplus(rate + self.rate_bias))
        h = x.new_zeros((x.shape[0], self.paths), dtype=real) if state is None else state["h"]
        with without_autocast(x):
            time_first = [tensor.transpose(0, 1).contiguous() for tensor in (decay, (1 - decay) * target)]
            all_h = linear_scan(time_first[0], time_first[1], h)
        if state is not None:
            replace(state, "h", all_h[-1])
        weights = (all_h.transpose(0, 1) + self.bias).softmax(-1)
        return weights.to(x.dtype).movedim(-1, 0).unsqueeze(-1)


ROUTERS: dict[Routing, type[WeightMixer] | type[LiquidRouter]] = {
    Routing.MIXER: WeightMixer,
    Routing.LIQUID: LiquidRouter,
}
