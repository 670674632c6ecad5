"""One LIV for one token without gradients: y = W_o T(x) x with what depends on weights alone made beforehand.

`stepper` turns an operator into a function that equals it, with states written in place and no tensor of one token
beyond those of the equations. Each token mixing has its own step; rare ones go through the mixer itself. Everything is
[B, channels]; what LIVs take from each other has the form that the mixers publish, with a token dimension, so that a
step and an ordinary pass can stand beside each other.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

from star.genome import Nonlinearity, Sparsity
from star.liv.kernels.rotary import phases
from star.liv.liquid import LiquidMixer
from star.liv.low_rank import LowRankMixer
from star.liv.maps import Dense
from star.liv.mixer import DiagonalMixer
from star.liv.operator import LIV, Operator
from star.liv.reading import ACTIVATIONS, read_back, reader, ring_convolution, transposed
from star.liv.resampling import ResamplingMixer
from star.liv.semi_separable import SemiSeparableMixer
from star.liv.shift import bounded_shift
from star.liv.state import Call, OperatorState, note
from star.liv.state_space import StateSpaceKernel
from star.liv.toeplitz import ToeplitzMixer

#: What the LIV reads [B, d], what its output is added to [B, d], the call, the state of each branch → the sum.
Step = Callable[[Tensor, Tensor, Call, list[OperatorState]], Tensor]
#: x [B, d], all groups [B, channels], the call, the state → T(x) x, [B, channels].
Mix = Callable[[Tensor, dict[str, Tensor], Call, OperatorState], Tensor]


def stepper(liv: LIV) -> Step:
    """A function that adds the output of a LIV to the stream; to be made anew when weights have changed."""
    branches = [_branch(operator) for operator in liv.operators]

    def step(x: Tensor, stream: Tensor, call: Call, state: list[OperatorState]) -> Tensor:
        for number, branch in enumerate(branches):
            stream = branch(x, stream, call, state[number])
        return stream

    return step


def _branch(operator: Operator) -> Callable[[Tensor, Tensor, Call, OperatorState], Tensor]:
    """The second branch of a differential class is subtracted."""
    sign = 1 if operator.branch == 0 else -1
    output = operator.output
    matrix = transposed(output.weight) if isinstance(output, Dense) else None
    mixed = _mixed(operator)

    def branch(x: Tensor, stream: Tensor, call: Call, state: OperatorState) -> Tensor:
        y = mixed(x, call, state)
        if matrix is not None:
            return torch.addmm(stream, y, matrix, alpha=sign)
        return torch.add(stream, output(y.unsqueeze(1)).squeeze(1), alpha=sign)

    return branch


def _mixed(operator: Operator) -> Callable[[Tensor, Call, OperatorState], Tensor]:
    sharing, branch = operator.sharing, operator.branch
    read, mix = reader(operator.featurizer), _mix(operator)
    source_of_v = sharing.taken.get("v") if operator.featurizer.reads_v else None

    def mixed(x: Tensor, call: Call, state: OperatorState) -> Tensor:
        v = None if source_of_v is None else call.published[source_of_v, branch, "v"].squeeze(1)
        return mix(x, read(x, v, state, call.place), call, state)

    return mixed


def replayable(liv: LIV) -> bool:
    """Whether the same operations serve for every token, once its states are as long as they ever get."""
    return all(_own_mix(operator) is not None for operator in liv.operators)


def _mix(operator: Operator) -> Mix:
    return _own_mix(operator) or _through_mixer(operator)


def _own_mix(operator: Operator) -> Mix | None:
    """T by the kind of token mixing; None where only the mixer itself serves."""
    mixer = operator.mixer
    connected = bool(operator.sharing.taken or operator.sharing.given)
    if isinstance(mixer, LowRankMixer):
        if mixer.nonlinearity is Nonlinearity.SOFTMAX and mixer.sparsity is Sparsity.NONE:
            return _attention(operator, mixer)
        if mixer.recurrent:
            return _linear_attention(operator, mixer)
        if mixer.nonlinearity is Nonlinearity.SOFTMAX and not connected and mixer.window > 1:
            return _windowed_attention(operator, mixer)
    elif isinstance(mixer, ResamplingMixer) and not connected:
        return _resampling(mixer)
    else:
        plain: Mix | None = None
        if isinstance(mixer, DiagonalMixer):
            plain = _diagonal(mixer)
        elif isinstance(mixer, SemiSeparableMixer) and mixer.window is None:
            plain = _semi_separable(mixer)
        elif isinstance(mixer, LiquidMixer) and mixer.window is None:
            plain = _liquid(operator, mixer)
        elif isinstance(mixer, ToeplitzMixer) and mixer.recurrent:
            plain = _state_space(operator, mixer)
        elif isinstance(mixer, ToeplitzMixer) and mixer.explicit and mixer.sparsity is Sparsity.NONE:
            plain = _short_convolution(operator, mixer)
        if plain is not None:
            return _exchanging(operator, plain) if connected else plain
    return None


def _through_mixer(operator: Operator) -> Mix:
    """The mixer's own pass over a sequence of one token."""
    mixer = operator._mixer

    def mix(x: Tensor, features: dict[str, Tensor], call: Call, state: OperatorState) -> Tensor:
        own = mixer.prepare({name: feature.unsqueeze(1) for name, feature in features.items()}, call, state)
        operator.publish(own, call)
        x = x.unsqueeze(1)
        return mixer(x, own | operator.taken(call), operator.featurizer, call, state).squeeze(1)

    return mix


def _exchanging(operator: Operator, mix: Mix) -> Mix:
    """`mix` for mixers that use groups as they were computed, where some are taken or given."""

    def exchanging(x: Tensor, features: dict[str, Tensor], call: Call, state: OperatorState) -> Tensor:
        operator.publish({name: feature.unsqueeze(1) for name, feature in features.items()}, call)
        taken = {name: feature.squeeze(1) for name, feature in operator.taken(call).items()}
        return mix(x, features | taken, call, state)

    return exchanging


def _diagonal(mixer: DiagonalMixer) -> Mix:
    activation = ACTIVATIONS.get(mixer.nonlinearity)

    def mix(x: Tensor, features: dict[str, Tensor], call: Call, state: OperatorState) -> Tensor:
        gate = features["gate"]
        return (gate if activation is None else activation(gate)) * features["up"]

    return mix


def _heads(mixer: LowRankMixer) -> Callable[[dict[str, Tensor], Call], dict[str, Tensor]]:
    """q, k and v as [B, heads, size], q and k rotated."""
    sizes = {"q": mixer.size, "k": mixer.size, "v": mixer.value_size}
    rotary = mixer.size % 2 == 0

    def split(features: dict[str, Tensor], call: Call) -> dict[str, Tensor]:
        heads = {name: feature.view(feature.shape[0], -1, sizes[name]) for name, feature in features.items()}
        if rotary and heads:
            some = next(iter(heads.values()))
            turns = _phases(call, mixer.size, some)
            for name in heads.keys() & {"q", "k"}:
                pairs = torch.view_as_complex(heads[name].view(*heads[name].shape[:2], -1, 2))
                heads[name] = torch.view_as_real(pairs * turns).flatten(-2)
        return heads

    return split


def _phases(call: Call, size: int, like: Tensor) -> Tensor:
    """Rotary phases of this token, [1, size / 2]."""
    if call.clock is None:
        return phases(call.position, 1, size, like.device, like.dtype)
    key = ("phases", size, call.keys)  # kept by the state: what a graph reads must stay where it is
    return call.once(key, lambda: phases(0, call.keys, size, like.device, like.dtype)).index_select(0, call.clock)


def _attention(operator: Operator, mixer: LowRankMixer) -> Mix:
    """Softmax attention over the whole past."""
    split, connected = _heads(mixer), bool(operator.sharing.taken or operator.sharing.given)
    grouped = mixer.heads > mixer.kv_heads

    def mix(x: Tensor, features: dict[str, Tensor], call: Call, state: OperatorState) -> Tensor:
        heads = split(features, call)
        for name in ("k", "v"):
            if name in heads:
                note(state[name], call.place, heads[name])
                heads[name] = state[name].narrow(1, 0, call.position + 1 if call.clock is None else call.keys)
        if connected:
            operator.publish(heads, call)
            heads |= operator.taken(call)
        mask = None if call.valid is None else call.valid[:, None, None]
        if call.clock is not None:
            mask = (torch.arange(call.keys, device=x.device) <= call.clock)[None, None, None]
        k, v = heads["k"].transpose(1, 2), heads["v"].transpose(1, 2)
        y = functional.scaled_dot_product_attention(heads["q"].unsqueeze(2), k, v, attn_mask=mask, enable_gqa=grouped)
        return y.flatten(1)

    return mix


def _linear_attention(operator: Operator, mixer: LowRankMixer) -> Mix:
    """S ← S + k ⊗ v, y = S q / (t √h) for token t of its sequence."""
    split, connected = _heads(mixer), bool(operator.sharing.taken or operator.sharing.given)

    def mix(x: Tensor, features: dict[str, Tensor], call: Call, state: OperatorState) -> Tensor:
        heads, total = split(features, call), state["kv"]
        if connected:
            operator.publish({name: feature.unsqueeze(1) for name, feature in heads.items()}, call)
            heads |= {name: feature.squeeze(1) for name, feature in operator.taken(call).items()}
        total.addcmul_(heads["k"].unsqueeze(-1), heads["v"].unsqueeze(-2))
        q = heads["q"].view(x.shape[0], mixer.kv_heads, -1, mixer.size)
        y = torch.matmul(q, total).flatten(1)
        count = call.place + 1 if call.valid is None else call.counts(1, x.device)
        return y.div_((count if isinstance(count, int) else count.to(y.dtype)) * sqrt(mixer.size))

    return mix


def _windowed_attention(operator: Operator, mixer: LowRankMixer) -> Mix:
    """Softmax attention over a band or a block: the order of keys does not matter, so the ring is read as it lies."""
    split, ordinary = _heads(mixer), _through_mixer(operator)
    grouped, window = mixer.heads > mixer.kv_heads, mixer.window
    blocks = mixer.sparsity is Sparsity.BLOCK_DIAGONAL

    def mix(x: Tensor, features: dict[str, Tensor], call: Call, state: OperatorState) -> Tensor:
        if call.valid is not None:  # each sequence has a window of its own
            return ordinary(x, features, call, state)
        heads, clock = split(features, call), call.clock
        q, mask = heads["q"].unsqueeze(2), None
        if clock is None:
            count = call.position % window if blocks else window - 1
            k, v = (_remembered(state[name], call.position, count, heads[name]).transpose(1, 2) for name in ("k", "v"))
        else:
            mask = _visible(clock, clock % window if blocks else window - 1, window - 1)[None, None, None]
            k, v = (_whole_ring(state[name], clock, heads[name]).transpose(1, 2) for name in ("k", "v"))
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped).flatten(1)

    return mix


def _remembered(ring: Tensor, position: int, count: int, value: Tensor) -> Tensor:
    """The last `count` entries of a ring, fewer near the start, in any order, then `value`; notes it in the ring."""
    size = ring.shape[1]
    count = min(count, position, size)
    first = (position - count) % size
    head = min(count, size - first)
    parts = [ring.narrow(1, first, head), ring.narrow(1, 0, count - head), value.unsqueeze(1)]
    entries = torch.cat(parts, dim=1)
    ring.select(1, position % size).copy_(value)
    return entries


def _whole_ring(ring: Tensor, place: Tensor, value: Tensor) -> Tensor:
    """`value`, then all entries of a ring as they lie; notes it in the ring."""
    entries = torch.cat([value.unsqueeze(1), ring], dim=1)
    note(ring, place, value)
    return entries


def _visible(place: Tensor, count: Tensor | int, size: int) -> Tensor:
    """[1 + size]: which of the entries of `_whole_ring` belong to the last `count` tokens, the present one included."""
    age = (place - 1 - torch.arange(size, device=place.device)) % size + 1
    return torch.cat([torch.ones_like(place, dtype=torch.bool), (age <= count) & (age <= place)])


def _semi_separable(mixer: SemiSeparableMixer) -> Mix:
    """h ← exp(Δ A) ⊙ h + Δ B v, y = z ⊙ (C h + D v)."""
    repeats = mixer.channels // mixer.heads
    decay = -torch.exp(mixer.A_log)
    decay = decay.repeat_interleave(repeats, dim=0).t().contiguous()  # N d
    present = mixer.D

    def mix(x: Tensor, features: dict[str, Tensor], call: Call, state: OperatorState) -> Tensor:
        v, h = features["v"], state["h"]
        delta = functional.softplus(features["delta"])
        if repeats > 1:
            delta = delta.repeat_interleave(repeats, dim=-1)
        h.mul_((delta.unsqueeze(1) * decay).exp_())
        h.addcmul_(features["B"].unsqueeze(2), (delta * v).unsqueeze(1))
        y = torch.bmm(features["C"].unsqueeze(1), h).squeeze(1)
        return y.addcmul_(present, v).mul_(features["z"])

    return mix


def _liquid(operator: Operator, mixer: LiquidMixer) -> Mix:
    """h ← (Ā + B̄ u) ⊙ h + B̄ u, y = z ⊙ (Re C h + D u), u = tanh v."""
    decay, drive, readout = mixer.sampled(operator.featurizer, mixer.D.dtype)
    paired, present = mixer.modes.paired, mixer.D

    def mix(x: Tensor, features: dict[str, Tensor], call: Call, state: OperatorState) -> Tensor:
        h, u = state["h"], torch.tanh(features["v"])
        if paired:
            h = torch.view_as_complex(h.view(*h.shape[:2], -1, 2))
        value = drive * u.unsqueeze(-1)
        h.mul_(decay + value).add_(value)
        y = (h * readout).sum(-1)
        return (y.real if paired else y).addcmul(present, u) * features["z"]

    return mix


def _state_space(operator: Operator, mixer: ToeplitzMixer) -> Mix:
    """h ← Ā h + B̄ u, y = C ⊙ (Re(C' h) + D u), u = B ⊙ x; products with real numbers by parts."""
    kernel: StateSpaceKernel = operator.featurizer.groups["K"]  # type: ignore[assignment]
    space, paired = kernel.sampled(mixer.repeat), kernel.modes.paired
    drive, readout = space.drive, space.readout
    if paired:  # Re(a h) is the product of the parts of the conjugate of a and of h
        drive = torch.view_as_real(drive).flatten(-2)
        readout = torch.view_as_real(readout.conj().resolve_conj()).flatten(-2)

    def mix(x: Tensor, features: dict[str, Tensor], call: Call, state: OperatorState) -> Tensor:
        h, u = state["h"], features["B"] * x
        (torch.view_as_complex(h.view(*h.shape[:2], -1, 2)) if paired else h).mul_(space.transition)
        h.addcmul_(drive, u.unsqueeze(-1))
        return (h * readout).sum(-1).addcmul_(space.present, u).mul_(features["C"])

    return mix


def _short_convolution(operator: Operator, mixer: ToeplitzMixer) -> Mix:
    """y = C ⊙ (K * (B ⊙ x)) with an explicit K."""
    kernel = mixer._kernel(operator.featurizer, mixer.reach or 1).flip(1)
    convolved, ordinary = ring_convolution(kernel, "u"), _through_mixer(operator)
    past = kernel.shape[1] - 1

    def mix(x: Tensor, features: dict[str, Tensor], call: Call, state: OperatorState) -> Tensor:
        if state["u"].shape[1] < past:  # made for fewer tokens than K spans
            return ordinary(x, features, call, state)
        return convolved(features["B"] * x, state, call.place).mul_(features["C"])

    return mix


def _resampling(mixer: ResamplingMixer) -> Mix:
    """y = g ⊙ v(t - s)."""
    repeat, window = mixer.repeat, mixer.window

    def mix(x: Tensor, features: dict[str, Tensor], call: Call, state: OperatorState) -> Tensor:
        shift = bounded_shift(features["s"], window)
        if repeat > 1:
            shift = shift.repeat_interleave(repeat, dim=-1)
        return read_back(features["v"], shift, window, state, "v", call.place).mul_(features["g"])

    return mix
