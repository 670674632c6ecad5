"""A training step of this library's backbones beside the same network built from a peer's layers.

Pairs of LIVs, a mixer and the gated unit in turn, are trained for single steps (forward, backward, clipping, AdamW) on
random tokens on one thread, in float32 or in autocast's bfloat16. ``transformer++`` stands beside Hugging Face's Llama
with SDPA and x-transformers' decoder; ``rec-1`` beside stacks of the same shape whose mixer is mambapy's or Hugging
Face's Mamba layer (expansion 1, 16 states) and whose gated unit is Llama's. All of a comparison take turns in one
process, so a busy machine slows all of them, and ratios are formed round by round. Peak memory is measured in a fresh
process for each. Beside them stand the products of matrices alone that every one of them has to compute, the same with
the attention that PyTorch computes for Llama as for our portable version, and a whole step written out by hand
(`by_hand.py`). With more threads, peers split each operation among them, ours the batch (`star.training.replicas`);
then, and in bfloat16, nothing else stands beside them. Run

    python benchmarks/training.py [--only NAME] [--skip NETWORK] [--widths D ...] [--pairs N] [--batch B]
        [--length L] [--rounds N] [--threads N] [--precision fp32|bf16]

It writes ``training.csv`` and ``training.md``, in bfloat16 ``training-bf16``, for more than one thread
``training-N-threads``; rows of other comparisons and widths that are there stay. Peers come with the extras ``hf`` and
``bench``; one that is not installed is left out and named on stderr.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from by_hand import ByHand
from operators import resident
from star import LanguageModel, OptionPool
from star.genome.variation import interleaved
from star.liv import kernels
from star.liv.kernels import forced
from star.liv.sizes import head_size, hidden_size
from star.training.precision import autocast
from star.training.recipe import Precision
from star.training.replicas import Replicas

FEWEST_ROUNDS = 5
CPU = torch.device("cpu")
STATES, ATTENTION, RECURRENCE, GATED_UNIT = 16, 1, 5, 9


@dataclass(frozen=True)
class Shape:
    """What all networks of a comparison have in common."""

    pairs: int
    width: int
    vocab: int
    batch: int
    length: int


Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Network:
    """`build` gives a module and its mean loss for tokens and targets [B, L]. `implementation`: of our kernels."""

    name: str
    build: Callable[[Shape], tuple[nn.Module, Loss]]
    needs: tuple[str, ...] = ()
    implementation: str | None = None
    in_replicas: bool = False  # whether more threads share the batch rather than each operation
    bounds: bool = False  # whether it is no network but what bounds them, of one thread and in float32

    @property
    def installed(self) -> bool:
        return all(importlib.util.find_spec(module) for module in self.needs)


class Pairs(nn.Module):
    """Pre-norm residual pairs of a mixer and a gated unit, between tied embeddings."""

    def __init__(self, shape: Shape, mixer: Callable[[], nn.Module], unit: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab, shape.width)
        nn.init.normal_(self.embedding.weight, std=shape.width**-0.5)
        self.layers = nn.ModuleList(layer() for _ in range(shape.pairs) for layer in (mixer, unit))
        self.norms = nn.ModuleList(nn.RMSNorm(shape.width) for _ in self.layers)
        self.norm = nn.RMSNorm(shape.width)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        logits = functional.linear(self.norm(x), self.embedding.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def ours(mixer: int) -> Callable[[Shape], tuple[nn.Module, Loss]]:
    """The mixer of this id and the gated unit in turn."""

    def build(shape: Shape) -> tuple[nn.Module, Loss]:
        pool = OptionPool.paper()
        genome = interleaved(mixer, GATED_UNIT, 2 * shape.pairs)
        model = LanguageModel.from_genome(
            genome, pool=pool, width=shape.width, vocab_size=shape.vocab, length=shape.length, seed=0
        )
        return model, model.loss

    return build


def llama_config(shape: Shape) -> Any:
    from transformers import LlamaConfig

    heads = shape.width // head_size(shape.width)
    return LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=hidden_size(OptionPool.paper()[GATED_UNIT], shape.width),
        num_hidden_layers=shape.pairs,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        use_cache=False,
    )


def llama(shape: Shape) -> tuple[nn.Module, Loss]:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(llama_config(shape))

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        # `shift_labels` are targets that stand at their tokens already.
        return cast(Tensor, model(input_ids=tokens, labels=targets, shift_labels=targets).loss)

    return model, loss


def x_transformers(shape: Shape) -> tuple[nn.Module, Loss]:
    from x_transformers import Decoder, TransformerWrapper

    heads = shape.width // head_size(shape.width)
    layers = Decoder(
        dim=shape.width,
        depth=shape.pairs,
        heads=heads,
        attn_dim_head=shape.width // heads,
        attn_flash=True,
        rotary_pos_emb=True,
        use_rmsnorm=True,
        ff_mult=hidden_size(OptionPool.paper()[GATED_UNIT], shape.width) / shape.width,
        ff_glu=True,
        ff_swish=True,
        ff_no_bias=True,
    )
    model = TransformerWrapper(
        num_tokens=shape.vocab,
        max_seq_len=shape.length,
        use_abs_pos_emb=False,
        tie_embedding=True,
        attn_layers=layers,
    )

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())

    return model, loss


def _llama_unit(shape: Shape) -> nn.Module:
    from transformers.models.llama.modeling_llama import LlamaMLP

    return cast(nn.Module, LlamaMLP(llama_config(shape)))


def mambapy(shape: Shape) -> tuple[nn.Module, Loss]:
    from mambapy.mamba import MambaBlock, MambaConfig

    config = MambaConfig(d_model=shape.width, n_layers=shape.pairs, d_state=STATES, expand_factor=1)
    model = Pairs(shape, lambda: MambaBlock(config), lambda: _llama_unit(shape))
    return model, model.loss


def hf_mamba(shape: Shape) -> tuple[nn.Module, Loss]:
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    config = MambaConfig(hidden_size=shape.width, state_size=STATES, expand=1, num_hidden_layers=shape.pairs)
    model = Pairs(shape, lambda: MambaMixer(config, layer_idx=0), lambda: _llama_unit(shape))
    return model, model.loss


class Products(nn.Module):
    """Every product of activations and weights that pairs of a mixer with four square maps and a gated unit need,
    forward and backward, into memory that is there already; where `attends`, PyTorch's own attention, too."""

    def __init__(self, shape: Shape, attends: bool) -> None:
        super().__init__()
        d, hidden = shape.width, hidden_size(OptionPool.paper()[GATED_UNIT], shape.width)
        sizes = [(d, d)] * 4 * shape.pairs + [(hidden, d), (hidden, d), (d, hidden)] * shape.pairs + [(shape.vocab, d)]
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(size)) for size in sizes)
        tokens = shape.batch * shape.length
        self.rows = {size: torch.randn(tokens, size) for size in {one for pair in sizes for one in pair}}
        self.outputs = {size: torch.empty(tokens, size) for size in self.rows}
        self.layers = shape.pairs if attends else 0
        heads = shape.batch, shape.length, d // head_size(d), head_size(d)
        self.heads = [torch.randn(heads).transpose(1, 2).requires_grad_() for _ in range(3 if attends else 0)]

    @torch.no_grad()
    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        for weight in self.weights:
            out, inputs = weight.shape
            torch.mm(self.rows[inputs], weight.t(), out=self.outputs[out])
            torch.mm(self.rows[out], weight, out=self.outputs[inputs])
            weight.grad = torch.mm(self.rows[out].t(), self.rows[inputs])
        for _ in range(self.layers):
            with torch.enable_grad():
                y = functional.scaled_dot_product_attention(*self.heads, is_causal=True)
                torch.autograd.grad(y, self.heads, y.detach())
        return torch.zeros(())


def products(attends: bool) -> Callable[[Shape], tuple[nn.Module, Loss]]:
    def build(shape: Shape) -> tuple[nn.Module, Loss]:
        model = Products(shape, attends)
        return model, model.loss

    return build


def by_hand(shape: Shape) -> tuple[nn.Module, Loss]:
    hidden, heads = hidden_size(OptionPool.paper()[GATED_UNIT], shape.width), shape.width // head_size(shape.width)
    model = ByHand(shape.pairs, shape.width, hidden, shape.vocab, shape.batch, shape.length, heads)
    return model, model.loss


def _own(mixer: int) -> tuple[Network, ...]:
    return tuple(
        Network(f"ours, {implementation}", ours(mixer), implementation=implementation, in_replicas=True)
        for implementation in ("portable", "native")
    )


#: By name of a comparison: peers, then ours.
COMPARISONS: dict[str, tuple[Network, ...]] = {
    "transformer++": (
        Network("HF Llama, SDPA", llama, ("transformers",)),
        Network("x-transformers", x_transformers, ("x_transformers",)),
        *_own(ATTENTION),
        Network("products alone", products(attends=False), implementation="portable", bounds=True),
        Network("products and SDPA alone", products(attends=True), implementation="portable", bounds=True),
        Network("by hand, PyTorch", by_hand, implementation="portable", bounds=True),
    ),
    "rec-1": (
        Network("mambapy", mambapy, ("mambapy", "transformers")),
        Network("HF Mamba", hf_mamba, ("transformers",)),
        *_own(RECURRENCE),
    ),
}


@dataclass(frozen=True)
class Way:
    """How all networks of a comparison are trained."""

    threads: int
    precision: Precision

    @property
    def title(self) -> str:
        return f"{'one thread' if self.threads == 1 else f'{self.threads} threads'}, {self.precision}"

    @property
    def stem(self) -> str:
        """Of the names of its files."""
        return (
            "training"
            + ("-bf16" if self.precision is Precision.BF16 else "")
            + (f"-{self.threads}-threads" if self.threads > 1 else "")
        )

    def networks(self, comparison: str, skip: Sequence[str] = ()) -> list[Network]:
        """Those that are installed."""
        plain = self.threads == 1 and self.precision is Precision.FP32
        found = [network for network in COMPARISONS[comparison] if network.installed and network.name not in skip]
        return [network for network in found if plain or not network.bounds]


class Trainer:
    """One network and its optimiser; the same for all."""

    def __init__(self, network: Network, shape: Shape, way: Way) -> None:
        threads, self.precision = way.threads, way.precision
        torch.manual_seed(0)
        torch.set_num_threads(threads)
        self.network, self.parts = network, threads if network.in_replicas else 1
        self.replicas = Replicas(self.parts, threads=1)
        self.model, self.loss = network.build(shape)
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-3, fused=True)
        self.tokens, self.targets = torch.randint(0, shape.vocab, (2, shape.batch, shape.length)).unbind()

    def step(self) -> float:
        """Seconds of one step."""
        start = perf_counter()
        if self.network.implementation is None:
            self._step()
        else:
            with forced(self.network.implementation):
                self._step()
        return perf_counter() - start

    def _step(self) -> None:
        if self.network.in_replicas:
            size = -(-len(self.tokens) // self.parts)
            parts = zip(self.tokens.split(size), self.targets.split(size), strict=True)
            self.replicas.accumulate([partial(self._share_of_loss, *part) for part in parts], self.parameters)
        elif (loss := self._loss(self.tokens, self.targets)).grad_fn is not None:
            loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _share_of_loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self._loss(tokens, targets) * (len(tokens) / len(self.tokens))

    def _loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Ours as `star train` does it; peers with PyTorch's default for autocast, which keeps casts of weights."""
        half = self.precision is Precision.BF16
        peer = self.network.implementation is None and half
        with torch.autocast("cpu", torch.bfloat16) if peer else autocast(self.precision, CPU, None):
            return self.loss(tokens, targets)


@dataclass(frozen=True)
class Row:
    """Milliseconds a step: median, lowest and highest of all rounds; how many times faster than each peer ours is, in
    the median of rounds; parameters; peak memory in MB of two steps beyond a process that has loaded its code;
    rounds."""

    comparison: str
    width: int
    network: str
    parameters: int
    tokens_per_second: int
    ms: float
    ms_lowest: float
    ms_highest: float
    faster_than: str
    peak_mb: float
    rounds: int


def earlier(path: Path) -> list[Row]:
    """The rows of a table that was written before."""
    kinds = {"str": str, "int": int, "float": float}
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    return [Row(*(kinds[str(field.type)](row[field.name]) for field in fields(Row))) for row in table]


def peak_memory(comparison: str, name: str, shape: Shape, way: Way) -> float:
    """MB that two steps add to the resident memory at most (Linux); call it in a fresh process."""
    network = next(one for one in COMPARISONS[comparison] if one.name == name)
    Trainer(network, Shape(1, 64, shape.vocab, shape.batch, 16), way).step()  # loads code
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far may even be that of the process before this one
    before = resident("VmRSS")
    trainer = Trainer(network, shape, way)
    for _ in range(2):
        trainer.step()
    return (resident("VmHWM") - before) / 1e6


def compare(name: str, shape: Shape, rounds: int, way: Way, skip: Sequence[str] = ()) -> list[Row]:
    networks = way.networks(name, skip)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as fresh:
        peaks = [fresh.submit(peak_memory, name, network.name, shape, way).result() for network in networks]
    trainers = [Trainer(network, shape, way) for network in networks]
    for trainer in trainers:
        trainer.step()
    times = [[trainer.step() for trainer in trainers] for _ in range(rounds)]
    rows = []
    for place, (network, trainer) in enumerate(zip(networks, trainers, strict=True)):
        own = [1e3 * row[place] for row in times]
        faster = []
        if network.implementation is not None:
            for other, peer in enumerate(networks):
                if peer.implementation is None:
                    ratios = sorted(row[other] / row[place] for row in times)
                    faster.append(f"{peer.name} {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
        rows.append(
            Row(
                name,
                shape.width,
                network.name,
                sum(parameter.numel() for parameter in trainer.parameters),
                round(shape.batch * shape.length / median(own) * 1e3),
                round(median(own), 2),
                round(min(own), 2),
                round(max(own), 2),
                "; ".join(faster),
                round(peaks[place], 1),
                rounds,
            )
        )
    return rows


def markdown(rows: Sequence[Row], shape: Shape, way: Way) -> str:
    lines = [
        "# Training steps",
        "",
        f"{shape.pairs} pairs, {shape.batch} × {shape.length} tokens a step, vocabulary {shape.vocab}, {way.title}, "
        f"torch {torch.__version__}; {kernels.fingerprint()}. Medians, lowest and highest "
        "in brackets.",
        "",
        "| comparison | width | network | parameters | ms a step | tokens/s | times faster than | peak MB | rounds |",
        "|---|---:|---|---:|---:|---:|---|---:|---:|",
    ]
    lines += [
        f"| {row.comparison} | {row.width} | {row.network} | {row.parameters:,} | {row.ms:.0f} ({row.ms_lowest:.0f} – "
        f"{row.ms_highest:.0f}) | {row.tokens_per_second:,.0f} | {row.faster_than or '–'} | {row.peak_mb:.0f} | "
        f"{row.rounds} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=list(COMPARISONS), help="one comparison")
    parser.add_argument("--skip", action="append", default=[], metavar="NETWORK", help="a network to leave out")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--vocab", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7, help=f"at least {FEWEST_ROUNDS}")
    parser.add_argument("--threads", type=int, default=1, help="threads of each network; default 1")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: by autocast")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if options.rounds < FEWEST_ROUNDS:
        parser.error(f"{options.rounds} rounds say too little; take at least {FEWEST_ROUNDS}")
    way = Way(options.threads, Precision(options.precision))
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = [options.only] if options.only else list(COMPARISONS)
    missing = {network.name for name in chosen for network in COMPARISONS[name] if not network.installed}
    for name in sorted(missing):
        print(f"{name} is not installed (extras `hf` and `bench`), so it is left out", file=sys.stderr)
    table = options.out / f"{way.stem}.csv"
    for width in options.widths:
        shape = Shape(options.pairs, width, options.vocab, options.batch, options.length)
        for name in chosen:
            found = compare(name, shape, options.rounds, way, options.skip)
            print("\n".join(map(str, found)), flush=True)
            rows = [row for row in earlier(table) if (row.comparison, row.width) != (name, width)] + found
            rows.sort(key=lambda row: (row.width, list(COMPARISONS).index(row.comparison)))
            with table.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow([field.name for field in fields(Row)])
                writer.writerows(astuple(row) for row in rows)
            table.with_suffix(".md").write_text(markdown(rows, shape, way), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
