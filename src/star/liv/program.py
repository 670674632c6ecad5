"""One LIV for one token as a list of the operations of `decode.cpp`: what `step.py` and `reading.py` are as functions.

Weights are used as they are stored, so they are read once for each token and kept once; only what is computed from them
(decays, transposed taps, sampled state spaces) is made beforehand. A class of LIVs whose parts have no such operations
is left to the functions: see `serves`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from star.genome import Nonlinearity, Sparsity
from star.liv.featurizer import Constant, Featurizer, ProjectedGroup
from star.liv.filters import ExplicitKernel, ImplicitKernel
from star.liv.kernels import decoding as native
from star.liv.kernels.rotary import phases
from star.liv.listing import Buffer, Features, Listing, Past, Value, fixed
from star.liv.low_rank import LowRankMixer
from star.liv.maps import Dense, Factored
from star.liv.mixer import DiagonalMixer
from star.liv.operator import LIV, Operator
from star.liv.resampling import ResamplingMixer
from star.liv.semi_separable import SemiSeparableMixer
from star.liv.state import Call
from star.liv.state_space import StateSpaceKernel
from star.liv.toeplitz import ToeplitzMixer


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
        listing.product(y, operator.output.weight, stream, sign=-1 if operator.branch else 1)  # type: ignore[arg-type]
    listing.release()


def _slot(operator: Operator, name: str, index: int | None = None) -> Callable[[Past], Tensor]:
    """What a state holds of a LIV, this one or the one with an index, for this branch."""
    number = operator.sharing.index if index is None else index
    return lambda past: past.livs[number][operator.branch][name]


def _projected(linear: nn.Module | None, x: Value, listing: Listing) -> Value:
    if isinstance(linear, Factored):
        return _projected(linear.expand, _projected(linear.reduce, x, listing), listing)
    return listing.product(x, linear.weight) if isinstance(linear, Dense) else x


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
        x = listing.resampled(x, raw, group.shift.bias, group.outputs, group.shift.window, tail)
    active = group.nonlinearity in (Nonlinearity.RELU, Nonlinearity.SWISH)
    if group.taps is not None or group.bias is not None or active:
        x = listing.finished(x, group.outputs, group.taps, tail, group.bias, group.nonlinearity)
    return listing.repeated(x, group.outputs * group.repeat, group.repeat)


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
    return listing.gated(features["gate"], features["up"], mixer.channels, mixer.nonlinearity)


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
        delta=listing.repeated(features["delta"], size, repeat),
        decay=fixed(-torch.exp(mixer.A_log).repeat_interleave(repeat, dim=0).t()),
        present=fixed(mixer.D),
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
        u=listing.gated(features["B"], x, size),
        **{name: fixed(part) for name, part in parts.items()},
        present=fixed(space.present),
        h=_slot(operator, "h"),
        y=y,
    )
    return listing.gated(features["C"], y, size)


def _short_convolution(operator: Operator, x: Buffer, features: Features, listing: Listing) -> Buffer:
    mixer: ToeplitzMixer = operator.mixer  # type: ignore[assignment]
    size, taps = mixer.channels, mixer._taps(operator.featurizer)
    ring, past = _slot(operator, "u"), taps.shape[1] - 1
    # A ring that was made for fewer tokens than K spans is left to the mixer.
    listing.conditions.append(lambda state: ring(state).shape[1] == past)
    y = listing.finished(listing.gated(features["B"], x, size), size, taps, ring)
    return listing.gated(features["C"], y, size)


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
        u=listing.gated(features["B"], x, size),
        kernel=kernel,
        past=past,
        y=y,
    )
    return listing.gated(features["C"], y, size)


def _resampling(operator: Operator, x: Buffer, features: Features, listing: Listing) -> Buffer:
    mixer: ResamplingMixer = operator.mixer  # type: ignore[assignment]
    size = mixer.channels
    shift = listing.repeated(features["s"], size, mixer.repeat)
    y = listing.resampled(features["v"], shift, None, size, mixer.window, _slot(operator, "v"))
    return listing.gated(features["g"], y, size)
