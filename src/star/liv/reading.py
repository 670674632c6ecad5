"""The featurizer for one token without gradients: the same groups as `Featurizer`, with what depends on weights alone
made beforehand.

All dense maps of one input are one matrix, transposed: a vector times many small matrices is slower by the number of
calls, and by their layout. Tensors are [B, channels]; short convolutions and shifts read the rings of the state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from star.genome import Nonlinearity
from star.liv.featurizer import Constant, Featurizer, ProjectedGroup
from star.liv.maps import Dense, Factored
from star.liv.shift import bounded_shift, resampled
from star.liv.state import OperatorState, Place, note, oldest_first, slide

Map = Callable[[Tensor], Tensor]
#: x [B, d], the group v of another LIV or None, the state, the position → own groups by name, [B, channels] each.
Reader = Callable[[Tensor, Tensor | None, OperatorState, Place], dict[str, Tensor]]
#: What is projected for a group, what for its shift, the state, the position → the group.
_Finish = Callable[[Tensor, Tensor | None, OperatorState, Place], Tensor]

ACTIVATIONS: dict[Nonlinearity, Map] = {Nonlinearity.RELU: torch.relu, Nonlinearity.SWISH: functional.silu}


def reader(featurizer: Featurizer) -> Reader:
    """All groups that a LIV computes from its input, from its v, or as constants."""
    groups = {name: group for name, group in featurizer.groups.items() if isinstance(group, ProjectedGroup)}
    constants = {
        name: group.value.unsqueeze(0) for name, group in featurizer.groups.items() if isinstance(group, Constant)
    }
    from_x = _reader({name: group for name, group in groups.items() if name not in featurizer.reads_v})
    from_v = _reader({name: group for name, group in groups.items() if name in featurizer.reads_v})
    any_reads_v = bool(featurizer.reads_v)

    def read(x: Tensor, v: Tensor | None, state: OperatorState, position: Place) -> dict[str, Tensor]:
        features = from_x(x, state, position)
        if any_reads_v:
            features |= from_v(features["v"] if v is None else v, state, position)
        for name, value in constants.items():
            features[name] = value.expand(x.shape[0], -1)
        return features

    return read


def _reader(groups: dict[str, ProjectedGroup]) -> Callable[[Tensor, OperatorState, Place], dict[str, Tensor]]:
    """Those groups that read the same input."""
    shifted = [name for name, group in groups.items() if group.shift is not None]
    shifts = [group.shift.project for group in groups.values() if group.shift is not None]
    projected = projections([*(group.project for group in groups.values()), *shifts])
    finishes = [(name, _finish(name, group)) for name, group in groups.items()]

    def read(x: Tensor, state: OperatorState, position: Place) -> dict[str, Tensor]:
        raw = projected(x)
        raw_shifts = dict(zip(shifted, raw[len(finishes) :], strict=True))
        return {
            name: finish(part, raw_shifts.get(name), state, position)
            for (name, finish), part in zip(finishes, raw, strict=False)
        }

    return read


def projections(maps: Sequence[nn.Module | None]) -> Callable[[Tensor], list[Tensor]]:
    """Several maps of one input, None for the input itself: the dense ones, and first factors, as one matrix."""
    entries = [linear.reduce if isinstance(linear, Factored) else linear for linear in maps]
    dense: list[Tensor] = [linear.weight for linear in entries if isinstance(linear, Dense)]
    matrix = torch.cat(dense).t().contiguous() if dense else None
    sizes = [weight.shape[0] for weight in dense]
    expansions = [transposed(linear.expand.weight) if isinstance(linear, Factored) else None for linear in maps]

    def project(x: Tensor) -> list[Tensor]:
        parts = iter(torch.mm(x, matrix).split(sizes, 1) if matrix is not None else ())
        outputs = []
        for linear, expansion in zip(entries, expansions, strict=True):
            if isinstance(linear, Dense):
                part = next(parts)
                outputs.append(part if expansion is None else torch.mm(part, expansion))
            else:
                outputs.append(x if linear is None else linear(x.unsqueeze(1)).squeeze(1))
        return outputs

    return project


def transposed(weight: Tensor) -> Tensor:
    """A matrix [out, in] laid out as [in, out], apart from the weights."""
    return weight.t().contiguous()


def _finish(name: str, group: ProjectedGroup) -> _Finish:
    """What follows the projection of a group: convolution or resampling, bias, nonlinearity, repetition."""
    slot, repeat = f"{name}.tail", group.repeat
    activation = ACTIVATIONS.get(group.nonlinearity)
    bias = group.bias
    convolved = None if group.taps is None else ring_convolution(group.taps, slot)
    shift = group.shift

    def finish(x: Tensor, raw_shift: Tensor | None, state: OperatorState, position: Place) -> Tensor:
        if convolved is not None:
            x = convolved(x, state, position)
        if shift is not None and raw_shift is not None:
            x = read_back(x, bounded_shift(raw_shift + shift.bias, shift.window), shift.window, state, slot, position)
        if bias is not None:
            x = x + bias
        if activation is not None:
            x = activation(x)
        return x if repeat == 1 else x.repeat_interleave(repeat, dim=-1)

    return finish


def ring_convolution(taps: Tensor, slot: str) -> Callable[[Tensor, OperatorState, Place], Tensor]:
    """y = Σ_k taps[:, k] ⊙ x_{t-n+1+k} for taps [channels, n], of which the ring holds the last n - 1 inputs."""
    *past, present = (tap.contiguous() for tap in taps.unbind(1))
    count = len(past)

    def convolved(x: Tensor, state: OperatorState, position: Place) -> Tensor:
        y = x * present
        if count:
            for entry, tap in zip(oldest_first(state[slot], position), past, strict=True):
                y.addcmul_(entry, tap)
            note(state[slot], position, x)
        return y

    return convolved


def read_back(x: Tensor, shift: Tensor, window: int, state: OperatorState, slot: str, position: Place) -> Tensor:
    """`resampled` for x [B, D], the newest of the values whose last ones the ring holds; x is noted there."""
    ring = state[slot]
    if ring.shape[1] < window and isinstance(position, int):  # made for fewer tokens than a shift may reach over
        values = torch.cat([slide(state, slot, position, x.unsqueeze(1)), x.unsqueeze(1)], dim=1)
        return resampled(values, 1, shift.unsqueeze(1), window).squeeze(1)
    lag = shift.floor().clamp_(max=window - 1)
    index = torch.remainder(position - lag.long(), window).unsqueeze(1)
    # x takes the place of the value `window` tokens ago, which only the farther of the two may still ask for.
    far = ring.gather(1, torch.where(index > 0, index - 1, window - 1))
    note(ring, position, x)
    return torch.lerp(ring.gather(1, index), far, (shift - lag).unsqueeze(1)).squeeze(1)
