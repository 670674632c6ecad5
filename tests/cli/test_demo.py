"""The demo, whole: what `make demo` runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from star.synthesis import Run, Status


@pytest.mark.slow
def test_the_demo_trains_forty_architectures_and_improves_on_the_first_generation(star, tmp_path: Path) -> None:
    path = tmp_path / "demo"
    assert star("evolve", "demo", "--run", path).status == 0
    compared = star("compare", path)
    assert compared.status == 0
    assert star("report", path).out.strip() == str(path / "report.html")
    with Run.open(path) as run:
        trained = {candidate.digest for candidate in run.candidates if candidate.status is Status.DONE}
        assert len(trained) >= 40
        assert run.hypervolumes[-1] > run.hypervolumes[0]
        for candidate in [*run.front, *run.baselines.values()]:
            assert f"{candidate.perplexity:.3f}" in compared.out
