"""The report is one file that holds everything, for any run and any text in it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from random import Random

import pytest
from written_runs import FAILURE, recipe, write_run

from star.errors import StarError
from star.report import write_report
from star.report.page import render
from star.synthesis import Candidate, Run

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Text of table cells, addresses that a browser would load, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.addresses: list[str] = []
        self.titles: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID and tag != "path" and tag != "rect":
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open:
            self.cells[-1] += data
        if self.open and self.open[-1] == "title":
            self.titles.append(data)


def test_every_candidate_stands_in_the_tables_with_genome_scores_and_parents(run: Run) -> None:
    page = Page(render(run))
    assert page.open == []
    rows = [page.cells[start : start + 7] for start in range(0, len(page.cells), 7)]
    for candidate in run.candidates:
        (row,) = [row for row in rows[len(run.front) + 2 :] if row[0] == candidate.name]
        assert row[1] == ("failed" if candidate.failure else f"{candidate.perplexity:.3f}")
        assert row[4] == str(candidate.generation)
        assert row[5] == (", ".join(candidate.parents) or "–")
        assert row[6] == candidate.canonical + (FAILURE if candidate.failure else "")
    assert {row[0] for row in rows[: len(run.front) + 2]} == {c.name for c in run.front} | set(run.baselines)


def test_nothing_is_loaded_from_elsewhere(run: Run) -> None:
    page = Page(render(run))
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not {"img", "iframe", "object", "embed"} & set(page.tags)


def test_names_are_text_and_not_markup(run: Run) -> None:
    text = render(run)
    assert "<nan>" not in text.replace("\\u003c", "<ESCAPED")
    assert "a <run>" not in text
    assert "a book <i>" not in text
    assert Page(text).titles[0] == "STAR: a <run>"


def test_each_backbone_of_the_front_is_drawn_beside_the_baselines(run: Run) -> None:
    text = render(run)
    assert text.count('<svg class="backbone"') == len(run.front) + 2


def test_the_verdicts_stand_in_the_summary(run: Run) -> None:
    from star.report.comparison import comparison, sentence

    text = render(run)
    assert all(sentence(verdict, run.recipe) in text for verdict in comparison(run).verdicts)


@pytest.mark.parametrize("ended", [0, 1])
def test_an_unfinished_run_has_a_report(tmp_path: Path, ended: int) -> None:
    with Run.open(write_run(tmp_path / "run", recipe(), ended=ended, baselines=False)) as run:
        page = Page(render(run))
        assert page.open == []
        assert "interrupted" in render(run)


def test_a_report_is_written_whole_or_not_at_all(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    write_report(run, target)
    assert target.read_text(encoding="utf-8") == render(run)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(StarError, match="cannot be written"):
        write_report(run, tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "report.html"]


def test_two_reports_of_one_run_are_equal(run: Run) -> None:
    Random(0).random()
    assert render(run) == render(run)


def test_a_run_with_every_extension_has_a_report(composed_run: Run) -> None:
    text = render(composed_run)
    page = Page(text)
    assert page.open == []
    assert text.count('<svg class="backbone') == len(composed_run.front) == 3
    assert "up to 6 LIVs, width 64" in text
    for count in (5, 9, 4):
        assert f"{count} LIVs, " in text, "identities are not counted"
    legend = text[text.index('<ul class="legend">') :].partition("</ul>")[0]
    used = {liv for candidate in composed_run.front for liv in classes(composed_run, candidate)}
    assert legend.count("swatch") == len(used) == 12
    assert "joins the stream" in legend
    assert "liquid router weighs them" in text


def test_a_run_without_extensions_is_not_explained_by_them(run: Run) -> None:
    text = render(run)
    assert "joins the stream" not in text
    assert "liquid router" not in text
    assert "<dd>6 LIVs, width 64</dd>" in text


def classes(run: Run, candidate: Candidate) -> set[int]:
    genome, _ = run.architecture(candidate)
    return {segment.liv for segment in genome}
