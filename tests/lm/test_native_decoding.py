"""Decoding by one call of C++ is the plan of functions, which is the ordinary pass; and it knows what it cannot do."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_any_genome import model_of
from torch import Tensor
from views import POOL, VOCAB, tiny

from star import BackboneGenome, LanguageModel, StarError
from star.backbone import Backbone, State
from star.backbone.program import compiled, native_operations
from star.genome import Extension, preset, random_genome
from star.liv.kernels import forced, native
from star.liv.kernels.decoding import DECODING

EVERYTHING = POOL.with_extensions(*Extension)
#: Liquid recurrences and Monarch matrices have no native operations.
WITHOUT = {21, 22, 28, 29}
#: Windows and resampling keep no keys, values or shifts for other LIVs natively.
ALONE = {19, 23, 24, 26, 30, 31}

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="there is no C++ compiler")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small(genome: str | BackboneGenome, width: int = 32, **options: object) -> LanguageModel:
    return tiny(genome, width, **options).float()  # type: ignore[arg-type]


def tokens_of(batch: int, length: int) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(batch))


def decoded(model: LanguageModel, tokens: Tensor, prompt: int, kernels: str, room: int = 0) -> tuple[Tensor, State]:
    """Logits of all tokens: a prompt, single tokens, a chunk of 4 where there are enough, single tokens."""
    length = tokens.shape[1]
    sizes = [size for size in (prompt, *[1] * ((length - prompt) // 2)) if size]
    sizes += [4] if length - sum(sizes) > 4 else []
    sizes += [1] * (length - sum(sizes))
    state = model.init_state(tokens.shape[0], max(room, length))
    with forced(kernels), torch.no_grad():
        outputs = [model(chunk, state) for chunk in tokens.split(sizes, 1)]
    return torch.cat(outputs, 1), state


def check(
    model: LanguageModel, batch: int, length: int, prompt: int = 5, room: int = 0, tolerance: float = 1e-5
) -> None:
    """Native = plan = parallel pass; and it was native."""
    tokens = tokens_of(batch, length)
    found, state = decoded(model, tokens, prompt, "native", room)
    assert state.binding.run is not None
    plan, ordinary_state = decoded(model, tokens, prompt, "portable", room)
    with torch.no_grad():
        parallel = model(tokens)
    torch.testing.assert_close(found, plan, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found, parallel, rtol=10 * tolerance, atol=10 * tolerance)
    for ours, theirs in zip(state.livs, ordinary_state.livs, strict=True):
        for own, other in zip(ours, theirs, strict=True):
            assert own.keys() == other.keys()
            for name in own:
                torch.testing.assert_close(own[name], other[name], rtol=10 * tolerance, atol=10 * tolerance)


def pair(liv: int, strategy: int) -> str:
    return f"{liv}.1.1.1.1 9.1.1.1.1 {liv}.1.{1 + strategy % 2}.1.{strategy}"


ROWS = [(liv, s) for liv in POOL.ids if liv for s in range(1, len(POOL[liv].strategies) + 1)]


@pytest.mark.parametrize(("liv", "strategy"), ROWS)
def test_every_class_and_sharing_strategy(liv: int, strategy: int) -> None:
    model = small(pair(liv, strategy))
    serves = liv not in WITHOUT and (strategy == 1 or liv not in ALONE)
    assert native_operations(model.backbone) is serves
    if serves:
        check(model, 2, 23)


@pytest.mark.parametrize("batch", [1, 3, 4, 16])
@pytest.mark.parametrize("liv", [liv for liv in POOL.ids if liv not in WITHOUT | {0} and not POOL[liv].differential])
def test_batches_long_contexts_and_no_context(liv: int, batch: int) -> None:
    """Beyond every window; the state has more room than is used."""
    model = small(f"{liv}.1.1.1.1 9.1.1.1.1", width=64)
    check(model, batch, 90, prompt=0, room=300)
    check(model, batch, 180, prompt=150, room=200)


@pytest.mark.parametrize("name", ["transformer++", "striped-mamba", "deformer"])
def test_presets_after_a_context_of_several_hundred(name: str) -> None:
    genome, pool = preset(name, 8)
    check(small(genome, 128, pool=pool), 2, 420, prompt=400)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 6),
    st.sampled_from([8, 16, 24, 40, 72]),
    st.integers(1, 16),
    st.integers(0, 9),
)
def test_random_backbones(seed: int, depth: int, width: int, batch: int, prompt: int) -> None:
    """With residuals and paths, at widths that fill no register; what is not native is still the ordinary pass."""
    try:
        model = small(random_genome(EVERYTHING, depth, Random(seed)), width, pool=EVERYTHING)
    except StarError:  # heads do not fit this width
        return
    tokens = tokens_of(batch, 14)
    found, state = decoded(model, tokens, prompt, "native")
    with torch.no_grad():
        torch.testing.assert_close(found, model(tokens), rtol=1e-4, atol=1e-4)
    assert (state.binding.run is not None) is native_operations(model.backbone)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 4), st.integers(1, 5))
def test_random_classes_with_sharing(seed: int, depth: int, batch: int) -> None:
    model = model_of(seed, 1, depth)
    tokens = tokens_of(batch, 12)
    found, state = decoded(model, tokens, 3, "native", room=2 * (seed % 40))
    plan, _ = decoded(model, tokens, 3, "portable", room=2 * (seed % 40))
    torch.testing.assert_close(found, plan, rtol=3e-5, atol=3e-5)
    assert state.binding.run is None or native_operations(model.backbone)


def test_greedy_tokens_are_those_of_the_plan() -> None:
    for genome in ("1.1.1.1.1 9.1.1.1.1 5.1.1.1.1 9.1.1.1.1", "23.1.1.1.1 7.1.1.1.1 18.1.1.1.1"):
        model, prompt = small(genome, 64), tokens_of(3, 7)
        told = []
        for kernels in ("native", "portable"):
            with forced(kernels):
                told.append(torch.stack(list(model.generate(prompt, max_new_tokens=60, temperature=0)), 1))
        assert torch.equal(*told)


EVERY_STATE = "2.1.1.1.1 5.1.1.1.1 8.1.1.1.1 18.1.1.1.1 19.1.1.1.1 20.1.1.1.1 24.1.1.1.1 16.1.1.1.1"


def test_forks_and_reordered_states_go_their_own_way() -> None:
    model, tokens = small(EVERY_STATE), tokens_of(2, 20)
    turn = torch.tensor([1, 0])
    with forced("native"), torch.no_grad():
        expected = model(tokens)
        state = model.init_state(2, 20)
        for t in range(8):
            model(tokens[:, t : t + 1], state)
        others = [state.fork(), copy.deepcopy(state), state.reorder(turn).reorder(turn)]
        for t in range(8, 20):  # in turns, so that nothing of one may be left in another
            for one in (state, *others):
                found = model(tokens[:, t : t + 1], one)[:, 0]
                assert one.binding.run is not None
                torch.testing.assert_close(found, expected[:, t], rtol=1e-4, atol=1e-4)


def test_tensors_of_a_state_that_were_replaced_are_found_again() -> None:
    """A pass that records gradients replaces keys and states; without gradients they are native again later."""
    model, tokens = small("1.1.1.1.1 5.1.1.1.1 8.1.1.1.1"), tokens_of(2, 12)
    state, outputs = model.init_state(2, 12), []
    with forced("native"):
        for t in range(12):
            if t == 6:
                for branches in state.livs:
                    for held in branches:
                        held.update({name: tensor.detach().clone() for name, tensor in held.items()})
            with torch.set_grad_enabled(t in (3, 4)):
                outputs.append(model(tokens[:, t : t + 1], state).detach())
            assert t < 3 or (state.binding.run is not None) is (t in (3, 4) or t >= 6)
    torch.testing.assert_close(torch.cat(outputs, 1), model(tokens), rtol=1e-4, atol=1e-4)


def test_autograd_learns_that_a_state_has_changed() -> None:
    model, tokens = small("1.1.1.1.1"), tokens_of(1, 4)
    state = model.init_state(1, 4)
    with forced("native"):
        with torch.no_grad():
            model(tokens[:, :1], state)
        assert state.binding.run is not None
        weight = torch.ones(1, requires_grad=True)
        output = (weight * state.livs[0][0]["k"]).sum()
        with torch.no_grad():
            model(tokens[:, 1:2], state)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.backward()


def test_what_a_program_is_not_made_for_is_decoded_by_the_plan() -> None:
    model = small("1.1.1.1.1 5.1.1.1.1 23.1.1.1.1")

    def runs_natively(batch: int = 2, mask: Tensor | None = None, **state: object) -> bool:
        tokens = tokens_of(batch, 6)
        held = model.init_state(batch, 6, **state)  # type: ignore[arg-type]
        with torch.no_grad():
            outputs = [model(tokens[:, :3], held, mask)]
            outputs += [model(tokens[:, t : t + 1], held) for t in range(3, 6)]
            expected = model(tokens, attention_mask=None if mask is None else torch.cat([mask, torch.ones(2, 3)], 1))
        real = slice(None) if mask is None else slice(2, None)
        torch.testing.assert_close(torch.cat(outputs, 1)[:, real], expected[:, real], rtol=1e-4, atol=1e-4)
        return held.binding.run is not None

    padded = torch.tensor([[1, 1, 1], [0, 0, 1]])
    assert runs_natively()
    assert runs_natively(16)
    assert not runs_natively(17)
    assert not runs_natively(mask=padded)
    assert not native_operations(small("21.1.1.1.1").backbone)
    assert not native_operations(tiny("1.1.1.1.1").backbone)  # float64
    assert not native_operations(
        small("1.1.1.1.1.0.1.2 5.1.1.1.1.0.1.1", pool=EVERYTHING).backbone  # a mixer of paths
    )


BOTH = pytest.mark.parametrize("kernels", ["native", "portable"])


def check_tokens(model: LanguageModel, kernels: str) -> State:
    """Token by token, all at once, and the last ones alone."""
    tokens = tokens_of(2, 8)
    found, state = decoded(model, tokens, 2, kernels)
    with torch.no_grad():
        torch.testing.assert_close(found, model(tokens), rtol=1e-4, atol=1e-4)
        last = torch.cat([model.last_logits(tokens[:, : t + 1]) for t in range(8)])
    torch.testing.assert_close(last, found.transpose(0, 1).flatten(0, 1), rtol=1e-4, atol=1e-4)
    return state


@BOTH
@pytest.mark.parametrize("tie", [False, True])
def test_norm_and_head_belong_to_the_token(kernels: str, tie: bool) -> None:
    """Natively in the same call."""
    model = small("1.1.1.1.1 5.1.1.1.1", tie_embeddings=tie)
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 2)
    program = check_tokens(model, kernels).binding.program
    assert program is not None
    assert program.outputs == VOCAB
    model.head = torch.nn.Linear(32, VOCAB)  # which has a bias
    check_tokens(model, kernels)
    model.head = torch.nn.Sequential(model.head, torch.nn.Tanh())  # type: ignore[assignment]
    check_tokens(model, kernels)


CHANGES: dict[str, Callable[[LanguageModel], object]] = {
    "in place": lambda model: model.head.weight.data.mul_(2),
    "permuted": lambda model: model.head.weight.data.copy_(model.head.weight.data.flip(0)),
    "data": lambda model: setattr(model.head.weight, "data", model.head.weight.data.flip(0)),
    "module": lambda model: setattr(model, "head", torch.nn.Linear(32, VOCAB + 3, bias=False)),
    "cut": lambda model: setattr(model.head.weight, "data", model.head.weight.data[:5]),
    "resized": lambda model: setattr(model.head, "weight", torch.nn.Parameter(torch.randn(9, 32))),
    "enlarged": lambda model: setattr(model.head, "weight", torch.nn.Parameter(torch.randn(VOCAB + 9, 32))),
    "transposed": lambda model: setattr(model.head.weight, "data", model.head.weight.data.t().contiguous().t()),
    "norm": lambda model: setattr(model.norm.weight, "data", 2 * model.norm.weight.data),
    "shared": lambda model: model.share_memory(),
}


@BOTH
@pytest.mark.parametrize("change", CHANGES)
def test_norm_and_head_are_read_where_they_are(kernels: str, change: str) -> None:
    """At once, by a state that has decoded tokens before, and by the next one."""
    model, tokens = small("1.1.1.1.1 5.1.1.1.1", tie_embeddings=False), tokens_of(2, 8)
    with forced(kernels), torch.no_grad():
        state = model.init_state(2, 8)
        for t in range(4):
            model(tokens[:, t : t + 1], state)
        CHANGES[change](model)
        for t in range(4, 8):
            model.head.weight.data.mul_(1.5)
            found = model(tokens[:, t : t + 1], state)[:, 0]
            torch.testing.assert_close(found, model(tokens)[:, t], rtol=1e-4, atol=1e-4)
    check_tokens(model, kernels)


@BOTH
def test_a_square_head_that_is_turned_in_place_is_read_anew(kernels: str) -> None:
    """At the same address, in the same shape."""
    model, tokens = small("1.1.1.1.1 5.1.1.1.1", tie_embeddings=False), tokens_of(2, 8)
    model.head = torch.nn.Linear(32, 32, bias=False)
    with forced(kernels), torch.no_grad():
        state = model.init_state(2, 8)
        for t in range(8):
            if t == 4:
                model.head.weight.data = model.head.weight.data.t()
            found = model(tokens[:, t : t + 1], state)[:, 0]
            torch.testing.assert_close(found, model(tokens)[:, t], rtol=1e-4, atol=1e-4)


def test_weights_that_have_moved_are_found_again() -> None:
    """As sending a model to another process does. Memory that was theirs may still hold what it held."""
    model, tokens = small("9.1.1.1.1 9.1.1.1.1"), tokens_of(2, 8)
    with forced("native"), torch.no_grad():
        state = model.init_state(2, 8)
        for t in range(4):
            model(tokens[:, t : t + 1], state)
        weights = list(model.backbone.parameters())
        before = [weight.data_ptr() for weight in weights]
        model.backbone.share_memory()
        assert all(weight.data_ptr() != place for weight, place in zip(weights, before, strict=True))
        for weight in weights:
            weight.mul_(1.1)
        found = model(tokens[:, 4:5], state)
        torch.testing.assert_close(found, model(tokens)[:, 4:5], rtol=1e-4, atol=1e-4)  # these LIVs have no memory


class Steered(Backbone):
    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> Tensor:
        return super().forward(x, state, mask).flip(-1)  # unlike a factor, no norm takes that away


class Wrapped(torch.nn.Module):
    def __init__(self, inner: Backbone) -> None:
        super().__init__()
        self.inner, self.init_state = inner, inner.init_state

    def forward(self, *inputs: Any) -> Tensor:
        return self.inner(*inputs).flip(-1)


class Shifted(LanguageModel):
    def hidden(self, *inputs: Any) -> Tensor:
        return super().hidden(*inputs) + 1


def steered(model: LanguageModel) -> None:
    model.backbone.__class__ = Steered


def wrapped(model: LanguageModel) -> None:
    model.backbone = Wrapped(model.backbone)  # type: ignore[assignment]


def shifted(model: LanguageModel) -> None:
    model.__class__ = Shifted


def patched(model: LanguageModel) -> None:
    model.head.forward = lambda x: 3 * torch.nn.functional.linear(x, model.head.weight)  # type: ignore[method-assign]


def replaced(model: LanguageModel) -> None:
    hidden = model.hidden
    model.hidden = lambda *inputs: hidden(*inputs) + 1  # type: ignore[method-assign]


def other_norm(model: LanguageModel) -> None:
    model.norm = torch.nn.LayerNorm(32)  # type: ignore[assignment]


def bounded(model: LanguageModel) -> None:
    """Looking a token up shortens it once and for all, so that all are looked up first."""
    model.embedding.max_norm = 0.1
    model.embedding(torch.arange(VOCAB))
    model.embedding.weight.data.mul_(2)


@BOTH
@pytest.mark.parametrize("change", [steered, wrapped, shifted, patched, replaced, other_norm, bounded])
def test_what_is_not_ours_is_not_passed_over(kernels: str, change: Callable[[LanguageModel], None]) -> None:
    model = small("1.1.1.1.1 5.1.1.1.1", tie_embeddings=False)
    change(model)
    check_tokens(model, kernels)


@BOTH
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("part", ["backbone", "embedding", "norm", "head", None])
def test_hooks_are_told_of_every_pass(kernels: str, before: bool, part: str | None) -> None:
    """Those of a module, and those of all modules."""
    model, calls = small("1.1.1.1.1 5.1.1.1.1"), list[object]()
    module = model if part is None else getattr(model, part)
    if part is None:
        every = torch.nn.modules.module
        register = every.register_module_forward_pre_hook if before else every.register_module_forward_hook
    else:
        register = module.register_forward_pre_hook if before else module.register_forward_hook

    def note(module: torch.nn.Module, *_: object) -> None:
        calls.extend([0] if module in (model.backbone, model.embedding, model.norm, model.head) else [])

    handle = register(note)
    try:
        decoded(model, tokens_of(2, 8), 2, kernels)
    finally:
        handle.remove()
    assert len(calls) == 7 * (4 if part is None else 1)  # a prompt of 2 and 6 tokens


@BOTH
def test_a_mask_may_come_with_a_single_token(kernels: str) -> None:
    model, tokens = small("1.1.1.1.1 5.1.1.1.1"), tokens_of(2, 4)
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    with forced(kernels), torch.no_grad():
        expected = model(tokens, attention_mask=mask)
        state = model.init_state(2, 4)
        found = [model(tokens[:, t : t + 1], state, mask[:, t : t + 1]) for t in range(4)]
    torch.testing.assert_close(torch.cat(found, 1)[:, 1:], expected[:, 1:], rtol=1e-4, atol=1e-4)


def test_a_large_head_is_left_to_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def outputs(threads: int) -> int:
        torch.set_num_threads(threads)
        program = check_tokens(small("1.1.1.1.1 5.1.1.1.1"), "native").binding.program
        assert program is not None
        return int(program.outputs)

    assert outputs(2) == VOCAB
    monkeypatch.setattr("star.lm.model.HEAD_ALONE", 0)
    assert (outputs(1), outputs(2)) == (VOCAB, 32)


def test_single_tokens_are_checked() -> None:
    model, tokens = small("1.1.1.1.1"), tokens_of(2, 3)
    state = model.init_state(2, 8)
    with torch.no_grad():
        model(tokens[:, :2], state)
        with pytest.raises(StarError, match="the state is for 2 sequences, not for 1"):
            model(tokens[:1, 2:], state)
        with pytest.raises(StarError, match="tokens have shape"):
            model.last_logits(tokens[:, 2], state)


def test_forced_kernels_choose_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(kernels: str | None = None) -> str:
        if kernels is not None:
            monkeypatch.setenv("STAR_KERNELS", kernels)
        choice = DECODING.chosen(torch.ones(1, 8), lambda x: x, lambda x: x)
        monkeypatch.delenv("STAR_KERNELS", raising=False)
        return choice.value

    assert chosen() == "native"
    assert chosen("portable") == "portable"
    assert DECODING.chosen(torch.ones(1, 8), lambda x: x, None) == "portable"


def test_large_models_are_left_to_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    program = compiled(small("1.1.1.1.1 9.1.1.1.1").backbone)
    assert program is not None
    state = small("1.1.1.1.1 9.1.1.1.1").init_state(1, 8)
    torch.set_num_threads(2)
    assert program.bound(state) is not None
    monkeypatch.setattr("star.backbone.program.ALONE", 0)
    assert program.bound(state) is None
    torch.set_num_threads(1)
    assert program.bound(state) is not None


def test_a_full_state_refuses_and_stays_as_it_was() -> None:
    model, tokens = small("1.1.1.1.1 5.1.1.1.1"), tokens_of(1, 4)
    with forced("native"), torch.no_grad():
        state = model.init_state(1, 4)
        for t in range(4):
            model(tokens[:, t : t + 1], state)
        held = copy.deepcopy(state.livs)
        with pytest.raises(StarError, match="made for 4 tokens"):
            model(tokens[:, :1], state)
        assert state.position == 4
        for now, before in zip(state.livs, held, strict=True):
            for name in before[0]:
                assert torch.equal(now[0][name], before[0][name])


def test_everything_in_inference_mode() -> None:
    with torch.inference_mode():
        check(small(EVERY_STATE), 2, 20)


def test_a_state_is_freed_when_nobody_needs_it() -> None:
    """Caches are large; they must not wait for the collector of cycles."""
    model = small("1.1.1.1.1 5.1.1.1.1")
    _, state = decoded(model, tokens_of(1, 6), 2, "native")
    assert state.binding.run is not None
    held = weakref.ref(state.livs[0][0]["k"])
    gc.disable()
    del state
    gone = held() is None
    gc.enable()
    assert gone


def test_trimmed_states_continue() -> None:
    model, tokens = small("1.1.1.1.1 9.1.1.1.1 3.1.1.1.1"), tokens_of(2, 16)
    with forced("native"), torch.no_grad():
        state = model.init_state(2, 16)
        for t in range(12):
            model(tokens[:, t : t + 1], state)
        state.trim(5)
        outputs = [model(tokens[:, t : t + 1], state) for t in range(5, 16)]
        torch.testing.assert_close(torch.cat(outputs, 1), model(tokens)[:, 5:], rtol=1e-4, atol=1e-4)


def test_changed_weights_are_noticed_by_the_next_state() -> None:
    model, tokens = small("1.1.1.1.1 5.1.1.1.1 20.1.1.1.1 7.1.1.1.1 8.1.1.1.1"), tokens_of(1, 6)

    def stepped() -> None:
        found, state = decoded(model, tokens, 0, "native")
        assert state.binding.run is not None
        with torch.no_grad():
            torch.testing.assert_close(found, model(tokens), rtol=1e-4, atol=1e-4)
        plan, _ = decoded(model, tokens, 0, "portable")
        torch.testing.assert_close(found, plan, rtol=1e-5, atol=1e-5)

    stepped()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    optimizer.step()
    stepped()
    model.load_state_dict({name: value * 1.1 for name, value in model.state_dict().items()}, assign=True)
    stepped()
    for parameter in model.parameters():
        parameter.data = parameter.data * 0.5
    stepped()


@pytest.mark.parametrize("liv", [5, 6, 23, 24])
@pytest.mark.parametrize("value", [-200.0, -30.0, 0.0, 30.0, 200.0])
def test_extreme_step_sizes_and_shifts(liv: int, value: float) -> None:
    """Step sizes that keep everything or nothing, shifts to the present token and to the whole window."""
    model = small(f"{liv}.1.1.1.1")
    with torch.no_grad():
        for group in model.backbone.livs[0].operators[0].featurizer.groups.values():
            for bias in (group.bias, None if group.shift is None else group.shift.bias):
                if bias is not None:
                    bias.fill_(value)
    check(model, 2, 80, prompt=0, tolerance=3e-5)


@pytest.mark.parametrize("liv", [1, 5, 19, 23])
def test_numbers_that_are_none_stay_in_their_sequence(liv: int) -> None:
    model, tokens = small(f"{liv}.1.1.1.1"), tokens_of(2, 8)
    tokens[0] %= VOCAB - 1
    tokens[1, 2] = VOCAB - 1
    with torch.no_grad():
        model.embedding.weight[VOCAB - 1] = float("nan")
        model.head.weight = torch.nn.Parameter(torch.ones_like(model.head.weight))
    found, _ = decoded(model, tokens, 0, "native")
    assert bool(found[0].isfinite().all())
    assert bool(found[1, :2].isfinite().all())
    assert bool(found[1, 2:3].isnan().all())


def test_a_state_of_another_backbone_is_refused_and_nothing_is_written_beyond_it() -> None:
    genome = "11111 51111 91111"
    wide, narrow = (LanguageModel.from_genome(genome, width=width, vocab_size=16, seed=0).eval() for width in (64, 16))
    token = torch.tensor([[1]])
    with torch.no_grad():
        with pytest.raises((StarError, RuntimeError)):
            wide(token, narrow.init_state(1, 32))
        with pytest.raises(StarError, match="x has 8 channels, but the backbone is 64 wide"):
            wide.backbone(torch.zeros(1, 1, 8), wide.init_state(1, 32))
        state = wide.init_state(1, 32)  # and a fitting one still works
        assert wide(token, state).isfinite().all()
