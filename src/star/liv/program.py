"""One LIV for one token as a list of the operations of `decode.cpp`: what `step.py` and `reading.py` are as functions.

Weights are used as they are stored, so they are read once for each token and kept once; only what is computed from them
(decays, transposed taps, sampled state spaces) is made beforehand. A class of LIVs whose parts have no such operations
is left to the functions: see `serves`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from star.genome import Nonlinearity, Sparsity
from star.liv.featurizer import Constant, Featurizer, ProjectedGroup
from star.liv.filters import ExplicitKernel, ImplicitKernel
from star.liv.kernels import decoding as native
from star.liv.kernels.rotary import phases
from star.liv.low_rank import LowRankMixer
from star.liv.maps import Dense, Factored
from star.liv.mixer import DiagonalMixer
from star.liv.operator import LIV, Operator
from star.liv.resampling import ResamplingMixer
from star.liv.semi_separable import SemiSeparableMixer
from star.liv.state import Call, OperatorState
from star.liv.state_space import StateSpaceKernel
from star.liv.toeplitz import ToeplitzMixer


class Past(Protocol):
    """What is asked of the state of a backbone when a program is bound to it."""

    livs: list[list[OperatorState]]
    batch_size: int
    max_length: int
    derived: dict[Any, Any]


@dataclass(eq=False)
class Buffer:
    """`size` numbers of each sequence that one operation leaves to others."""

    size: int


#: What a field of a record is: a number or tensor, known now or for each state; a buffer; nothing.
Value = int | float | Tensor | Buffer | Callable[[Past], int | Tensor] | None
Features = dict[str, Value]


class Entry(NamedTuple):
    operation: type[ctypes.Structure]
    values: dict[str, Value]


@dataclass
class Listing:
    """Operations in order, and what the states that they can be bound to fulfil."""

    entries: list[Entry] = field(default_factory=list)
    conditions: list[Callable[[Past], bool]] = field(default_factory=list)
    published: dict[tuple[int, int, str], Value] = field(default_factory=dict)
    _free: list[Buffer] = field(default_factory=list)
    _used: list[Buffer] = field(default_factory=list)

    def add(self, operation: type[ctypes.Structure], **values: Value) -> None:
        self.entries.append(Entry(operation, values))

    def buffer(self, size: int) -> Buffer:
        """A buffer that is the caller's until `release`."""
        found = next((free for free in self._free if free.size == size), None) or Buffer(size)
        if found in self._free:
            self._free.remove(found)
        self._used.append(found)
        return found

    def release(self) -> None:
        """All buffers may be used again but those that are published."""
        kept = [value for value in self.published.values() if isinstance(value, Buffer)]
        self._free += [used for used in self._used if used not in kept]
        self._used = []


def serves(liv: LIV) -> bool:
    """Whether all parts of a LIV have native operations."""
    return all(
        isinstance(operator.output, Dense)
        and all(_readable(group) for group in operator.featurizer.groups.values())
        and _writer(operator) is not None
        for operator in liv.operators
    )


def _readable(group: nn.Module) -> bool:
    if not isinstance(group, ProjectedGroup):
        return isinstance(group, (Constant, ExplicitKernel, ImplicitKernel, StateSpaceKernel))
    maps = (group.project, None if group.shift is None else group.shift.project)
    return all(linear is None or isinstance(linear, (Dense, Factored)) for linear in maps)


def write(liv: LIV, x: Buffer, stream: Buffer, listing: Listing) -> None:
    """The operations that add the output of a LIV that `serves`, for what it reads in x, to a stream."""
    for operator in liv.operators:
        writer = _writer(operator)
        assert writer is not None
        taken = {
            name: listing.published.get((source, operator.branch, name))
            for name, source in operator.sharing.taken.items()
        }
        features = taken | _read(operator, x, taken.get("v"), listing)
        y = writer(operator, x, features, listing)
        for name in operator.sharing.given & features.keys():
            listing.published[operator.sharing.index, operator.branch, name] = features[name]
        _product(y, operator.output.weight, listing, stream, sign=-1 if operator.branch else 1)  # type: ignore[arg-type]
    listing.release()


def _fixed(tensor: Tensor) -> Tensor:
    """A weight, or what is made of weights, without gaps; the very storage where there are none."""
    return tensor.detach().contiguous()


def _slot(operator: Operator, name: str, index: int | None = None) -> Callable[[Past], Tensor]:
    """What a state holds of a LIV, this one or the one with an index, for this branch."""
    number = operator.sharing.index if index is None else index
    return lambda past: past.livs[number][operator.branch][name]


def _product(x: Value, weight: Tensor, listing: Listing, y: Buffer | None = None, sign: int = 0) -> Buffer:
    outputs, inputs = weight.shape
    y = y or listing.buffer(outputs)
    listing.add(native.Product, inputs=inputs, outputs=outputs, sign=sign, x=x, weight=_fixed(weight), y=y)
    return y


def _projected(linear: nn.Module | None, x: Value, listing: Listing) -> Value:
    if isinstance(linear, Factored):
        return _projected(linear.expand, _projected(linear.reduce, x, listing), listing)
    return _product(x, linear.weight, listing) if isinstance(linear, Dense) else x


def _gated(
    gate: Value, up: Value, size: int, listing: Listing, nonlinearity: Nonlinearity = Nonlinearity.NONE
) -> Buffer:
    y = listing.buffer(size)
    listing.add(native.Gate, size=size, nonlinearity=nonlinearity, gate=gate, up=up, y=y)
    return y


def _read(operator: Operator, x: Buffer, taken_v: Value, listing: Listing) -> Features:
    """All groups that a LIV computes from its input, from its v, or as constants; see `reading.reader`."""
    featurizer: Featurizer = operator.featurizer
    features: Features = {}
    for readers in (featurizer.groups.keys() - featurizer.reads_v, featurizer.reads_v):
        for name, group in featurizer.groups.items():
            if name not in readers:
                continue
            if isinstance(group, ProjectedGroup):
                source = x if name not in featurizer.reads_v else features.get("v", taken_v)
                features[name] = _group(operator, name, group, source, listing)
            elif isinstance(group, Constant):
                features[name] = _constant(group.value.detach(), listing)
    return features


def _constant(value: Tensor, listing: Listing) -> Buffer:
    y = listing.buffer(value.shape[0])
    listing.add(native.Copy, size=y.size, x=lambda past: value.expand(past.batch_size, -1).contiguous(), y=y)
    return y


def _group(operator: Operator, name: str, group: ProjectedGroup, source: Value, listing: Listing) -> Value:
    tail = _slot(operator, f"{name}.tail")
    x = _projected(group.project, source, listing)
    if group.shift is not None:
        raw = _projected(group.shift.project, source, listing)
        x = _resampled(x, raw, group.shift.bias, group.outputs, group.shift.window, tail, listing)
    active = group.nonlinearity in (Nonlinearity.RELU, Nonlinearity.SWISH)
    if group.taps is not None or group.bias is not None or active:
        x = _finished(x, group.outputs, listing, group.taps, tail, group.bias, group.nonlinearity)
    return _repeated(x, group.outputs * group.repeat, group.repeat, listing)


def _finished(
    x: Value,
    size: int,
    listing: Listing,
    taps: Tensor | None = None,
    ring: Value = None,
    bias: Tensor | None = None,
    nonlinearity: Nonlinearity = Nonlinearity.NONE,
    repeat: int = 1,
) -> Buffer:
    y = listing.buffer(size * repeat)
    listing.add(
        native.Finish,
        size=size,
        taps=0 if taps is None else taps.shape[1],
        nonlinearity=nonlinearity,
        repeat=repeat,
        x=x,
        weight=None if taps is None else _fixed(taps.t()),
        bias=None if bias is None else _fixed(bias),
        ring=None if taps is None else ring,
        y=y,
    )
    return y


def _repeated(x: Value, size: int, repeat: int, listing: Listing) -> Value:
    """Each channel `repeat` times, `size` in the end."""
    return x if repeat == 1 else _finished(x, size // repeat, listing, repeat=repeat)


def _resampled(
    x: Value,
    shift: Value,
    bias: Tensor | None,
    size: int,
    window: int,
    ring: Callable[[Past], Tensor],
    listing: Listing,
) -> Buffer:
    y = listing.buffer(size)
    listing.add(
        native.Resample,
        size=size,
        window=window,
        length=lambda past: ring(past).shape[1],
        x=x,
        shift=shift,
        bias=None if bias is None else _fixed(bias),
        ring=ring,
        y=y,
    )
    return y


#: The operator, x, all its groups, the listing → T(x) x.
_Writer = Callable[[Operator, Buffer, Features, Listing], Buffer]


def _writer(operator: Operator) -> _Writer | None:
    """What writes T, by the kind of token mixing; None where there are no native operations."""
    mixer, connected = operator.mixer, bool(operator.sharing.taken or operator.sharing.given)
    match mixer:
        case DiagonalMixer():
            return _diagonal
        case LowRankMixer() if mixer.recurrent:
            return _linear_attention
        case LowRankMixer() if mixer.nonlinearity is Nonlinearity.SOFTMAX:
            return _attention if mixer.sparsity is Sparsity.NONE or (not connected and mixer.window > 1) else None
        case SemiSeparableMixer() if mixer.window is None:
            return _scan
        case ToeplitzMixer() if mixer.recurrent:
            return _state_space
        case ToeplitzMixer() if mixer.sparsity is Sparsity.NONE:
            return _short_convolution if mixer.explicit else _long_convolution
        case ResamplingMixer() if not connected:
            return _resampling
    return None


def _diagonal(operator: Operator, x: Buffer, features: Features, listing: Listing) -> Buffer:
    mixer: DiagonalMixer = operator.mixer  # type: ignore[assignment]
    return _gated(features["gate"], features["up"], mixer.channels, listing, mixer.nonlinearity)


def _rotated(operator: Operator, features: Features, listing: Listing) -> LowRankMixer:
    """Rotates q and k, those of its own."""
    mixer: LowRankMixer = operator.mixer  # type: ignore[assignment]
    size = mixer.size

    def turns(past: Past) -> Tensor:
        return torch.view_as_real(phases(0, past.max_length, size, torch.device("cpu"), torch.float32))

    for name, heads in (("q", mixer.heads), ("k", mixer.kv_heads)):
        if name not in operator.sharing.taken and size % 2 == 0:
            listing.add(native.Rotate, size=heads * size, head=size, phases=turns, x=features[name])
    return mixer


def _attention(operator: Operator, x: Buffer, features: Features, listing: Listing) -> Buffer:
    mixer, taken = _rotated(operator, features, listing), operator.sharing.taken
    y, keys = listing.buffer(mixer.channels), _slot(operator, "k", taken.get("k"))
    listing.add(
        native.Attend,
        heads=mixer.heads,
        kv_heads=mixer.kv_heads,
        size=mixer.size,
        value_size=mixer.value_size,
        length=lambda past: keys(past).shape[1],
        window=0 if mixer.sparsity is Sparsity.NONE else mixer.window,
        blocks=int(mixer.sparsity is Sparsity.BLOCK_DIAGONAL),
        q=features["q"],
        k=None if "k" in taken else features["k"],
        v=None if "v" in taken else features["v"],
        keys=keys,
        values=_slot(operator, "v", taken.get("v")),
        y=y,
    )
    return y


def _linear_attention(operator: Operator, x: Buffer, features: Features, listing: Listing) -> Buffer:
    mixer = _rotated(operator, features, listing)
    y = listing.buffer(mixer.channels)
    listing.add(
        native.LinearAttention,
        heads=mixer.heads,
        kv_heads=mixer.kv_heads,
        size=mixer.size,
        value_size=mixer.value_size,
        **{name: features[name] for name in ("q", "k", "v")},
        total=_slot(operator, "kv"),
        y=y,
    )
    return y


def _scan(operator: Operator, x: Buffer, features: Features, listing: Listing) -> Buffer:
    mixer: SemiSeparableMixer = operator.mixer  # type: ignore[assignment]
    size, repeat = mixer.channels, mixer.channels // mixer.heads
    y = listing.buffer(size)
    listing.add(
        native.Scan,
        size=size,
        states=mixer.state_size,
        **{name: features[name] for name in ("v", "z", "B", "C")},
        delta=_repeated(features["delta"], size, repeat, listing),
        decay=_fixed(-torch.exp(mixer.A_log).repeat_interleave(repeat, dim=0).t()),
        present=_fixed(mixer.D),
        h=_slot(operator, "h"),
        y=y,
    )
    return y


def _state_space(operator: Operator, x: Buffer, features: Features, listing: Listing) -> Buffer:
    mixer: ToeplitzMixer = operator.mixer  # type: ignore[assignment]
    kernel: StateSpaceKernel = operator.featurizer.groups["K"]  # type: ignore[assignment]
    space, size = kernel.sampled(mixer.repeat), mixer.channels
    parts = {"transition": space.transition, "drive": space.drive, "readout": space.readout}
    if kernel.modes.paired:  # Re(a h) is the product of the parts of the conjugate of a and of h
        parts["readout"] = parts["readout"].conj().resolve_conj()
        parts = {name: torch.view_as_real(part.contiguous()) for name, part in parts.items()}
    y = listing.buffer(size)
    listing.add(
        native.StateSpace,
        size=size,
        states=mixer.state_size,
        paired=int(kernel.modes.paired),
        u=_gated(features["B"], x, size, listing),
        **{name: _fixed(part) for name, part in parts.items()},
        present=_fixed(space.present),
        h=_slot(operator, "h"),
        y=y,
    )
    return _gated(features["C"], y, size, listing)


def _short_convolution(operator: Operator, x: Buffer, features: Features, listing: Listing) -> Buffer:
    mixer: ToeplitzMixer = operator.mixer  # type: ignore[assignment]
    size, taps = mixer.channels, mixer._taps(operator.featurizer)
    ring, past = _slot(operator, "u"), taps.shape[1] - 1
    # A ring that was made for fewer tokens than K spans is left to the mixer.
    listing.conditions.append(lambda state: ring(state).shape[1] == past)
    y = _finished(_gated(features["B"], x, size, listing), size, listing, taps, ring)
    return _gated(features["C"], y, size, listing)


def _long_convolution(operator: Operator, x: Buffer, features: Features, listing: Listing) -> Buffer:
    mixer: ToeplitzMixer = operator.mixer  # type: ignore[assignment]
    size, past = mixer.channels, _slot(operator, "u")

    def kernel(state: Past) -> Tensor:
        return mixer.latest_first(operator.featurizer, past(state), Call(derived=state.derived))

    y = listing.buffer(size)
    listing.add(
        native.Convolution,
        size=size,
        length=lambda state: past(state).shape[2],
        u=_gated(features["B"], x, size, listing),
        kernel=kernel,
        past=past,
        y=y,
    )
    return _gated(features["C"], y, size, listing)


def _resampling(operator: Operator, x: Buffer, features: Features, listing: Listing) -> Buffer:
    mixer: ResamplingMixer = operator.mixer  # type: ignore[assignment]
    size = mixer.channels
    shift = _repeated(features["s"], size, mixer.repeat, listing)
    y = _resampled(features["v"], shift, None, size, mixer.window, _slot(operator, "v"), listing)
    return _gated(features["g"], y, size, listing)
