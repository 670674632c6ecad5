"""The claims that every language model must keep, whatever its genome: used by the tests beside this file."""

from __future__ import annotations

from random import Random

import torch

from star import BackboneGenome, LanguageModel, OptionPool

VOCAB = 37
POOL = OptionPool.full()


def tiny(genome: str | BackboneGenome, width: int = 32, pool: OptionPool = POOL, **options: object) -> LanguageModel:
    return LanguageModel.from_genome(
        genome, width=width, vocab_size=VOCAB, pool=pool, length=64, seed=1, **options
    ).double()  # type: ignore[arg-type]


def check_views(model: LanguageModel, rng: Random, length: int = 33, tolerance: float = 1e-9) -> None:
    """Parallel = T written out = chunks of random sizes = token by token; padded = unpadded; causal."""
    tokens = torch.randint(0, VOCAB, (2, length), generator=torch.Generator().manual_seed(rng.randrange(1 << 30)))
    with torch.no_grad():
        parallel = model(tokens)
        torch.testing.assert_close(written_out(model, tokens), parallel, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(in_chunks(model, tokens, rng), parallel, rtol=tolerance, atol=tolerance)
        state = model.init_state(2, length)
        steps = torch.cat([model(tokens[:, t : t + 1], state=state) for t in range(length)], 1)
        torch.testing.assert_close(steps, parallel, rtol=tolerance, atol=tolerance)

        padding = rng.randint(1, 9)
        padded = torch.cat([torch.zeros(2, padding, dtype=torch.long), tokens], 1)
        padded[0, :length] = tokens[0]  # the other sequence is longer than its neighbour
        mask = torch.ones_like(padded)
        mask[1, :padding] = 0
        torch.testing.assert_close(
            model(padded, attention_mask=mask)[1, padding:], parallel[1], rtol=tolerance, atol=tolerance
        )
        state = model.init_state(2, length + padding)
        cut = rng.randint(padding, length)
        chunks = [
            model(padded[:, :cut], state=state, attention_mask=mask[:, :cut]),
            model(padded[:, cut:], state=state),
        ]
        torch.testing.assert_close(torch.cat(chunks, 1)[1, padding:], parallel[1], rtol=tolerance, atol=tolerance)

        where = rng.randint(1, length - 1)
        changed = tokens.clone()
        changed[:, where:] = (changed[:, where:] + 1) % VOCAB
        difference = (model(changed) - parallel).abs()
        assert float(difference[:, :where].max()) <= tolerance
        assert float(difference[:, where:].max()) > 10 * tolerance


def written_out(model: LanguageModel, tokens: torch.Tensor) -> torch.Tensor:
    """Logits by way of every T(x) as a matrix."""
    return model.head(model.norm(model.backbone.materialize(model.embedding(tokens))[0]))


def in_chunks(model: LanguageModel, tokens: torch.Tensor, rng: Random) -> torch.Tensor:
    state, outputs, start = model.init_state(*tokens.shape), [], 0
    while start < tokens.shape[1]:
        size = rng.randint(1, 11)
        outputs.append(model(tokens[:, start : start + size], state=state))
        start += size
    return torch.cat(outputs, 1)


def check_gradients(model: LanguageModel, rng: Random, length: int = 23, tolerance: float = 1e-9) -> None:
    """Outputs and gradients of the parallel pass, of T written out, and of chunks that carry states."""
    tokens = torch.randint(0, VOCAB, (2, length), generator=torch.Generator().manual_seed(1))
    weights = torch.randn(2, length, VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weights = weights.to(model.embedding.weight.dtype)
    parameters = list(model.parameters())
    outputs = [model(tokens), written_out(model, tokens), in_chunks(model, tokens, rng)]
    gradients = [torch.autograd.grad((output * weights).sum(), parameters) for output in outputs]
    for output, gradient in zip(outputs[1:], gradients[1:], strict=True):
        torch.testing.assert_close(output, outputs[0], rtol=tolerance, atol=tolerance)
        for one, other in zip(gradient, gradients[0], strict=True):
            torch.testing.assert_close(one, other, rtol=100 * tolerance, atol=10 * tolerance)


def check_trains(model: LanguageModel) -> None:
    """One step with finite gradients that reach every parameter, and a lower loss on the same batch after it."""
    tokens = torch.randint(0, VOCAB, (2, 25), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    loss = model.loss(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        assert model.loss(tokens[:, :-1], tokens[:, 1:]) < loss
