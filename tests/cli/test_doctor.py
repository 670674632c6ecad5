"""`star doctor` says what runs here and why."""

from __future__ import annotations

import json

import pytest
import torch

from star.liv import kernels
from star.liv.kernels.matmul import Probe


def test_every_operator_is_shown_with_its_implementation_and_reason(star) -> None:
    answer = star("doctor")
    assert (answer.status, answer.err) == (0, "")
    for one in kernels.choices():
        line = next(line for line in answer.out.splitlines() if line.startswith(one.operator))
        assert one.implementation in line
    assert f"torch {torch.__version__}" in answer.out
    assert max(map(len, answer.out.splitlines()[-len(kernels.KERNELS) :])) <= 80


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (4e-7, "oneDNN multiplies in float32 on this CPU (error 4.0e-07, by default 3.0e-07)"),
        (2e-3, "oneDNN does not multiply in float32 on this CPU (error 2.0e-03, by default 3.0e-07)"),
        (None, "this PyTorch cannot send products to oneDNN"),
    ],
)
def test_what_onednn_would_do_is_told(star, monkeypatch: pytest.MonkeyPatch, error: float | None, told: str) -> None:
    monkeypatch.setattr("star.liv.kernels.matmul.probe", lambda: Probe(3e-7, error))
    assert f"products  {told}" in star("doctor").out.splitlines()
    assert json.loads(star("doctor", "--json").out)["products"] == {"onednn": error == 4e-7, "description": told}


def test_json_is_what_the_text_is_made_of(star, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAR_KERNELS", "portable")
    facts = json.loads(star("doctor", "--json").out)
    assert {one["implementation"] for one in facts["operators"]} == {"portable"}
    assert {one["reason"] for one in facts["operators"]} == {"forced"}
    assert facts["devices"][0]["name"] == "cpu"


def test_a_wrong_choice_of_kernels_is_explained(star, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAR_KERNELS", "fast")
    answer = star("doctor")
    assert answer.status == 2
    assert "STAR_KERNELS is 'fast'; it may be one of reference, portable, native, triton, or not set" in answer.err
