"""The report in a real browser: it draws without network, at phone width, light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from star.report import write_report
from star.synthesis import Run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on PATH (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(run_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    with Run.open(run_path) as run:
        write_report(run, path)
    return path


class Visit:
    """A page, with everything that went wrong in it and everything that it asked for."""

    def __init__(self, browser, report: Path, width: int, scheme: str) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.goto(report.as_uri())
        self.page.wait_for_selector("#curves .main-svg")


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (1280, "light")])
def test_it_draws_offline_without_errors_and_fits(
    browser, report: Path, run_path: Path, width: int, scheme: str
) -> None:
    visit = Visit(browser, report, width, scheme)
    page = visit.page
    assert visit.errors == []
    assert [url for url in visit.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out sideways"
    with Run.open(run_path) as run:
        trained = sum(candidate.perplexity is not None for candidate in run.candidates)
        assert page.locator("#front-cache_bytes .scatterlayer .trace").count() == 4, "front, candidates, two baselines"
        assert page.locator("#front-cache_bytes .scatterlayer .point").count() == trained + 2
        assert page.locator("svg.backbone").count() == len(run.front) + 2
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_ground(browser, report: Path, scheme: str) -> None:
    page = Visit(browser, report, 800, scheme).page
    luminance = """element => {
        const [r, g, b] = element.match(/\\d+/g).map(Number).map(v => v / 255)
            .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
    }"""
    ground = page.evaluate(luminance, page.evaluate("getComputedStyle(document.body).backgroundColor"))
    for selector, property_name in (
        ("h1", "color"),
        ("td", "color"),
        ("figcaption", "color"),
        (".xtick text", "fill"),
        (".xtitle", "fill"),
        (".backbone .note", "fill"),
    ):
        colour = page.evaluate("([s, p]) => getComputedStyle(document.querySelector(s))[p]", [selector, property_name])
        text = page.evaluate(luminance, colour)
        contrast = (max(text, ground) + 0.05) / (min(text, ground) + 0.05)
        assert contrast >= 4.5, f"{selector} in {scheme}"
    page.close()


def test_pointing_at_a_candidate_tells_its_genome(browser, report: Path, run_path: Path) -> None:
    page = Visit(browser, report, 1280, "light").page
    with Run.open(run_path) as run:
        first = next(candidate for candidate in run.candidates if candidate.perplexity is not None)
    page.locator("#front-cache_bytes").scroll_into_view_if_needed()
    page.evaluate("Plotly.Fx.hover('front-cache_bytes', [{curveNumber: 1, pointNumber: 0}])")
    text = page.locator("#front-cache_bytes .hoverlayer").text_content() or ""
    assert f"candidate {first.name}" in text
    assert first.canonical.split()[0] in text
    page.close()


def test_colours_follow_a_change_of_scheme(browser, report: Path) -> None:
    page = Visit(browser, report, 800, "light").page
    fill = "getComputedStyle(document.querySelector('.xtitle')).fill"
    light = page.evaluate(fill)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"{fill} !== {light!r}")
    assert page.evaluate(fill) != light
    page.close()


@pytest.fixture
def composed_report(composed_run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    write_report(composed_run, path)
    return path


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (800, "dark"), (1280, "light")])
def test_composed_backbones_fit_and_their_names_stay_in_their_boxes(
    browser, composed_report: Path, width: int, scheme: str
) -> None:
    visit = Visit(browser, composed_report, width, scheme)
    page = visit.page
    assert visit.errors == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out sideways"
    inside = """() => [...document.querySelectorAll('.backbone .name, .backbone .routing text')].map(text => {
        const box = text.parentElement.querySelector('rect').getBBox(), own = text.getBBox();
        return own.x >= box.x && own.x + own.width <= box.x + box.width;
    })"""
    found = page.evaluate(inside)
    assert len(found) == 5 + 9 + 4 + 2
    assert all(found)
    shown = "getComputedStyle(document.querySelector('.legend .link')).stroke"
    assert page.evaluate(shown) == page.evaluate(shown.replace(".legend", ".backbone"))
    assert page.evaluate(shown) not in ("none", page.evaluate("getComputedStyle(document.body).color"))
    page.close()


def test_a_wide_drawing_has_the_room_of_two_where_there_is_room(browser, composed_report: Path) -> None:
    for width, columns in ((1280, 2), (360, 1)):
        page = Visit(browser, composed_report, width, "light").page
        wide = page.locator("figure:has(> .wide)").bounding_box()["width"]
        narrow = page.locator("figure:has(> .backbone:not(.wide))").first.bounding_box()["width"]
        assert columns - 0.1 < wide / narrow < columns + 0.2
        page.close()
