"""Report and comparison in a real browser: everybody can read them, on a phone and a laptop, in light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, sync_playwright

from edge_peer.operator.report.compare import comparison, read_runs
from edge_peer.operator.report.page import write_report
from edge_peer.operator.runs.results import read_results
from tests.large_runs import LargeRun
from tests.live.browser import OPTIONS, require_chromium

pytestmark = pytest.mark.live
SIZES = {"phone": ((390, 844), "light"), "laptop": ((1280, 800), "dark")}
#: Texts of one picture that stand on each other, by more than a hair.
OVERLAPS = """() => [...document.querySelectorAll("figure svg:not(.swatch)")].flatMap((svg) => {
  const texts = [...svg.querySelectorAll("text")].filter((it) => it.textContent);
  const boxes = texts.map((it) => [it.textContent, it.getBoundingClientRect()]);
  return boxes.flatMap(([one, a], place) => boxes.slice(place + 1)
    .filter(([, b]) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
                    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2)
    .map(([other]) => `${one} / ${other}`));
})"""
#: Texts that are cut off by their picture's edge.
CUT_OFF = """() => [...document.querySelectorAll("figure svg:not(.swatch)")].flatMap((svg) => {
  const edge = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter((it) => {
    const box = it.getBoundingClientRect();
    return box.left < edge.left - 1 || box.right > edge.right + 1 || box.bottom > edge.bottom + 1;
  }).map((it) => it.textContent);
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        it = playwright.chromium.launch(executable_path=require_chromium(print), args=OPTIONS)
        yield it
        it.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of two boards, of more than have a line each, and both compared."""
    folder = tmp_path_factory.mktemp("pages")
    runs = [LargeRun(boards, 30, seed).write(folder) for seed, boards in enumerate((2, 60))]
    (folder / "compare.html").write_text(comparison(read_runs(runs)))
    return [*(write_report(read_results(run), run) for run in runs), folder / "compare.html"]


@pytest.mark.parametrize("size", SIZES)
def test_everybody_can_read_it(browser: Browser, pages: list[Path], size: str) -> None:
    (width, height), scheme = SIZES[size]
    # The page runs no script; the checks are scripts.
    context = browser.new_context(bypass_csp=True, color_scheme=scheme, viewport={"width": width, "height": height})
    for path in pages:
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(path.as_uri())
        assert asked == [path.as_uri()], "it loads nothing else"
        assert page.evaluate(OVERLAPS) == []
        assert page.evaluate(CUT_OFF) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing is wider than the screen"
        # What is said of a page of two boards is true of many, and takes long there.
        if len(page.query_selector_all(".board")) < 20:
            page.evaluate("document.querySelectorAll('details').forEach((it) => { it.open = true; })")
            found = Axe().run(page).response["violations"]
            assert [(it["id"], it["nodes"][0]["html"]) for it in found] == []
        page.close()
    context.close()
