"""Language models: embedding, backbone, norm, head."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from star.backbone import Backbone, State
from star.backbone.decode import Decoder
from star.backbone.norm import RMSNorm
from star.errors import StarError
from star.genome import BackboneGenome, OptionPool, Routing
from star.liv.kernels.cross_entropy import head_cross_entropy
from star.lm.config import LanguageModelConfig
from star.lm.generation import generate

HEAD_STD = 0.02
HEAD_ALONE = 1 << 22  # bytes of a head that one thread reads as soon as several do
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class LanguageModel(nn.Module):
    """Tokens [B, ℓ] → logits [B, ℓ, vocab] for the token that follows each."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        if config.vocab_size < 1:
            raise StarError(f"vocabulary size {config.vocab_size} is not positive.")
        self.config = config
        self.backbone = Backbone(config.genome, config.pool, width=config.width, length=config.length)
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.norm = RMSNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        # A token starts with norm 1: the residual stream starts on the scale of what the LIVs add to it.
        nn.init.normal_(self.embedding.weight, std=config.width**-0.5)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight
        else:
            nn.init.normal_(self.head.weight, std=HEAD_STD)
        self._decoder = Decoder()

    @classmethod
    def from_genome(
        cls,
        genome: BackboneGenome | str,
        *,
        width: int,
        vocab_size: int,
        pool: OptionPool | None = None,
        length: int = 4096,
        tie_embeddings: bool = True,
        seed: int | None = None,
    ) -> LanguageModel:
        """Build a fresh model; with a `seed` the weights are its function and torch's generator is left alone.

        Raises `StarError` for an unreadable or invalid genome and for a width that its LIVs cannot have.
        """
        if isinstance(genome, str):
            genome = BackboneGenome.parse(genome)
        config = LanguageModelConfig(genome, width, vocab_size, pool or OptionPool.paper(), length, tie_embeddings)
        if seed is None:
            return cls(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config)

    @property
    def width(self) -> int:
        """Channels of the residual stream."""
        return self.config.width

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    def use_top1(self, enabled: bool = True) -> None:
        """Let the liquid routers use only their favourite path for each token in evaluation, which skips the work of
        the others as far as their states allow; training always weighs all paths. Raises `StarError` where the genome
        has no liquid router."""
        if enabled and all(stage.routing is not Routing.LIQUID for stage in self.backbone.stages):
            raise StarError(
                "top-1 routing needs a liquid router, and this model has none: no parallel paths have routing 3."
            )
        self.backbone.top1 = enabled

    def forward(self, tokens: Tensor, state: State | None = None, attention_mask: Tensor | None = None) -> Tensor:
        """tokens: [B, ℓ] int64 → logits [B, ℓ, vocab].

        A state is advanced by ℓ tokens, any number at a time. attention_mask: [B, ℓ], 0 or False at padding; with a
        state, padding stands on the left.
        """
        single = self._single(tokens, state, attention_mask)
        if single is not None:
            return single.unsqueeze(1)
        return self.head(self.hidden(tokens, state, attention_mask))

    def last_logits(self, tokens: Tensor, state: State | None = None, attention_mask: Tensor | None = None) -> Tensor:
        """What `forward` says of the last of the tokens alone: tokens [B, ℓ] → logits [B, vocab]."""
        single = self._single(tokens, state, attention_mask)
        return self.head(self.hidden(tokens, state, attention_mask)[:, -1]) if single is None else single

    def _single(self, tokens: Tensor, state: State | None, attention_mask: Tensor | None) -> Tensor | None:
        """Logits [B, vocab] of a single token of each sequence by one call, norm and head included, where that can be:
        they are what this class made, nobody wants to be told when they run, and one thread reads the head soonest."""
        if state is None or attention_mask is not None or torch.is_grad_enabled():
            return None
        if tokens.dim() != 2 or tokens.shape[1] != 1 or not self._plain():
            return None
        if self.head.weight.nbytes > HEAD_ALONE and torch.get_num_threads() > 1:
            return None
        x = functional.embedding(tokens[:, 0], self.embedding.weight)
        plan = self._decoder.plan(self.backbone, x, state, self.norm, self.head)
        return None if plan is None else plan(x, state)

    def _plain(self) -> bool:
        """Whether the parts are of the classes that this one gave them, without hooks or methods of their own."""
        kinds = (
            (self.backbone, Backbone),
            (self.embedding, nn.Embedding),
            (self.norm, RMSNorm),
            (self.head, nn.Linear),
        )
        hooked = _global_forward_hooks or _global_forward_pre_hooks
        if hooked or type(self).hidden is not LanguageModel.hidden or "hidden" in self.__dict__:
            return False
        own = all(
            type(part) is kind
            and not (part._forward_hooks or part._forward_pre_hooks)
            and "forward" not in part.__dict__
            for part, kind in kinds
        )
        return own and self.head.bias is None and self.embedding.max_norm is None

    def hidden(self, tokens: Tensor, state: State | None = None, attention_mask: Tensor | None = None) -> Tensor:
        """What the head reads: [B, ℓ, d], normalised."""
        if tokens.dim() != 2:
            raise StarError(f"tokens have shape {tuple(tokens.shape)}; give [batch, length].")
        mask = None if attention_mask is None else attention_mask.bool()
        return self.norm(self.backbone(self.embedding(tokens), state, mask))

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of targets [B, ℓ] given tokens [B, ℓ], in nats a token, computed in float32 or better."""
        return head_cross_entropy(self.hidden(tokens).flatten(0, 1), self.head.weight, targets.flatten())

    def init_state(self, batch_size: int, max_length: int, dtype: torch.dtype | None = None) -> State:
        """An empty decoding state for `batch_size` sequences of up to `max_length` tokens."""
        return self.backbone.init_state(batch_size, max_length, dtype)

    def generate(
        self,
        tokens: Tensor,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        stop_tokens: Sequence[int] = (),
        stop_sequences: Sequence[Sequence[int]] = (),
        generator: torch.Generator | None = None,
        attention_mask: Tensor | None = None,
        cuda_graph: bool = False,
    ) -> Iterator[Tensor]:
        """Yield the next token of each sequence, [B] at a time; see `star.lm.generation.generate`."""
        return generate(
            self,
            tokens,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            stop_tokens=stop_tokens,
            stop_sequences=stop_sequences,
            generator=generator,
            attention_mask=attention_mask,
            cuda_graph=cuda_graph,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter once, however many LIVs share it, and the persistent buffers: what a checkpoint holds."""
        kept = {name: parameter.detach() for name, parameter in self.named_parameters()}
        persistent = self.state_dict(keep_vars=True)
        kept.update({name: buffer for name, buffer in self.named_buffers() if name in persistent})
        return kept

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.tensors().items()}, folder / WEIGHTS_FILE)
        (folder / CONFIG_FILE).write_text(json.dumps(self.config.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> LanguageModel:
        """Read what `save` wrote; `StarError` where a file is missing, unreadable or does not fit."""
        folder = Path(folder)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise StarError(f"{folder} is no checkpoint: {name} is missing; give a folder that `star train` wrote.")
        try:
            config = LanguageModelConfig.from_dict(json.loads((folder / CONFIG_FILE).read_text()))
            tensors = load_file(folder / WEIGHTS_FILE)
        except StarError:
            raise
        except Exception as error:
            raise StarError(f"{folder} holds no readable checkpoint: {error}.") from None
        model = cls(config)
        own = model.tensors()
        if set(own) != set(tensors) or any(own[name].shape != tensors[name].shape for name in own):
            raise StarError(f"the weights in {folder} do not fit its {CONFIG_FILE}; they belong to another model.")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])
        return model.to(device)
