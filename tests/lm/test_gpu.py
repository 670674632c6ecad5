"""What a GPU computes is what the CPU computes. Skipped where there is none."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from views import POOL, VOCAB, tiny

from star import LanguageModel
from star.backbone.replay import obstacle

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

MIXED = "1.1.1.1.1 9.1.1.1.1 5.1.1.1.1 9.1.1.1.1 7.1.1.1.1 9.1.1.1.1"


def prompt(length: int, batch: int = 2) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(0))


def on_both(genome: str) -> tuple[LanguageModel, LanguageModel]:
    """The same model in float32 on the CPU and on the GPU."""
    model = tiny(genome).float()
    return model, copy.deepcopy(model).to("cuda")


def continued(model: LanguageModel, tokens: Tensor, count: int, cuda_graph: bool = False) -> Tensor:
    """The most likely `count` tokens after a prompt, [B, count]."""
    return torch.stack(list(model.generate(tokens, max_new_tokens=count, temperature=0.0, cuda_graph=cuda_graph)), 1)


@pytest.mark.parametrize("liv", POOL.ids)
def test_every_class_has_the_logits_and_gradients_of_the_cpu(liv: int) -> None:
    cpu, gpu = on_both(f"{liv}.1.1.1.1 9.1.1.1.1")
    tokens = prompt(70)
    outputs = []
    for model, given in ((cpu, tokens), (gpu, tokens.cuda())):
        logits = model(given[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), given[:, 1:].flatten()).backward()
        outputs.append(logits.detach().cpu())
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-3, atol=1e-4)
    theirs = dict(cpu.named_parameters())
    for name, own in gpu.named_parameters():
        expected = theirs[name].grad
        assert (own.grad is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(
                own.grad.cpu(), expected, rtol=1e-3, atol=1e-4 * max(1.0, float(expected.abs().max()))
            )


@pytest.mark.parametrize("liv", POOL.ids)
@torch.no_grad()
def test_every_class_decodes_what_it_computes_in_parallel(liv: int) -> None:
    _, model = on_both(f"{liv}.1.1.1.1 9.1.1.1.1")
    tokens = prompt(12).cuda()
    state = model.init_state(2, 12)
    steps = [model(tokens[:, :5], state), *(model(tokens[:, t : t + 1], state) for t in range(5, 12))]
    torch.testing.assert_close(torch.cat(steps, 1), model(tokens), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("liv", POOL.ids)
def test_cuda_graphs_generate_the_same(liv: int) -> None:
    _, model = on_both(f"{liv}.1.1.1.1 9.1.1.1.1")
    if obstacle(model.backbone) is not None:
        pytest.skip("this class takes other operations for every token")
    tokens = prompt(5).cuda()
    assert torch.equal(continued(model, tokens, 40, cuda_graph=True), continued(model, tokens, 40))


def test_cuda_graphs_across_numbers_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("star.backbone.replay.SMALLEST_BUCKET", 8)
    _, model = on_both(MIXED)
    tokens = prompt(5).cuda()
    assert torch.equal(continued(model, tokens, 60, cuda_graph=True), continued(model, tokens, 60))


def test_bfloat16_learns_what_float32_learns() -> None:
    """The loss on one batch falls alike."""
    tokens, losses = prompt(64, batch=8).cuda(), {}
    for enabled in (False, True):
        _, model = on_both(MIXED)
        optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
        for _ in range(60):
            with torch.autocast("cuda", torch.bfloat16, enabled=enabled):
                logits = model(tokens[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[enabled] = loss.item()
    assert losses[False] < 2.0
    assert abs(losses[True] - losses[False]) < 0.2
