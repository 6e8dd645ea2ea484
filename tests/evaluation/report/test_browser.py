"""Reports in a real browser, offline: everything is there, visible, and fits the window."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from robustseg.evaluation.report import Curve, PanelPicture, leaderboard_html, write_report
from robustseg.files import write_text
from tests.evaluation.report.cards import CLASSES, board_of, changed, make_card, typed

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

WIDTHS = (1280, 400)
EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    # Chromium's sandbox cannot be set up by root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    card = make_card(verdict="unreliable", classes=[*CLASSES[:-1], EVIL])
    failed = {"settings": {"attack": "Square", "eps": "8/255"}, "error": "logits that are not finite " * 5}
    card["attacks"] |= {"an_attack_with_a_long_name_" * 3: card["attacks"]["pgd20"], EVIL: failed}
    card = changed(card, "flags.4.verdict", "not checked")
    colours = ((200, 30, 30), (30, 200, 30))
    panels = [Image.new("RGB", (6 * 240, 196), colour) for colour in colours]
    pictures = [
        PanelPicture(kind, f"0016E5_0{place}", "cospgd20", 0.9, 0.1 + 0.5 * place, panel)
        for place, (kind, panel) in enumerate(zip(("worst", "best"), panels, strict=True))
    ]
    curve = Curve("miou over steps", "steps", "miou, %", [3, 7, 20], {"PGD": [40, 27, 14], "SegPGD": [31, 13, 12]})
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(typed(card), path, pictures, [curve], [(12 * number, 0, 99) for number in range(len(CLASSES))])
    return path


@pytest.fixture(scope="module")
def leaderboard(tmp_path_factory) -> Path:
    cards = {
        f"runs/{name}": make_card(strength=s, sha256=name * 64) for name, s in (("a", 1.0), ("b", 0.8), ("c", 0.8))
    }
    cards["runs/" + "long_name_" * 8] = make_card(strength=1.1, sha256="d" * 64, verdict="unreliable")
    path = tmp_path_factory.mktemp("leaderboard") / "leaderboard.html"
    write_text(leaderboard_html(board_of(cards)), path)
    return path


class Opened:
    """A page with everything that it asked for and said."""

    def __init__(self, browser: sync_api.Browser, path: Path, width: int, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        self.page = context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def check(self, path: Path) -> None:
        """It needs nothing but itself, and fits the window with everything that can be opened open."""
        assert self.said == []
        assert [url for url in self.requests if not url.startswith("data:")] == [path.as_uri()]
        self.check_width()
        for summary in self.page.locator("details > summary").all():
            summary.click()
        assert self.page.locator("details:not([open])").count() == 0
        self.check_width()

    def check_width(self) -> None:
        width, window = self.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert width <= window
        # Nor may anything that is cut off stick out of the window, unless its own box can be scrolled.
        sticking = """[...document.querySelectorAll('main *')]
            .filter(e => !e.closest('.scroll') && !e.closest('svg'))
            .filter(e => e.getBoundingClientRect().right > window.innerWidth + 1)
            .map(e => e.outerHTML.slice(0, 200))"""
        assert self.page.evaluate(sticking) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_report(browser, report, tmp_path, width):
    opened = Opened(browser, report, width)
    page = opened.page
    page.screenshot(path=tmp_path / "closed.png", full_page=True)
    opened.check(report)
    page.screenshot(path=tmp_path / "open.png", full_page=True)
    assert (tmp_path / "open.png").stat().st_size > (tmp_path / "closed.png").stat().st_size > 10_000

    rows = page.locator("table.scores tbody tr")
    assert rows.count() == 1 + 7 + 2
    for row in rows.all():
        assert row.is_visible()
    # Of pgd20 every column; headings in the first line, or beside each figure on a phone.
    cells = rows.nth(2).locator("td")
    assert cells.count() == 9
    headings = page.locator("table.scores thead th")
    for place, cell in enumerate(cells.all()):
        assert cell.is_visible()
        assert cell.inner_text().strip()
        beside = cell.evaluate("e => getComputedStyle(e, '::before').content").strip('"')
        assert headings.nth(place + 1).is_visible() == (width == 1280)
        assert beside == (headings.nth(place + 1).text_content() if width == 400 else "none")
    assert page.locator("td.error").is_visible()
    (first_worst, *_) = page.locator("tr.worst").all()
    lines = {cell.evaluate("e => getComputedStyle(e).borderTopWidth") for cell in first_worst.locator("td").all()}
    assert lines == {"2px" if width == 1280 else "0px"}

    plots = page.locator("svg.plot")
    assert plots.count() == 5
    for plot in plots.all():
        box = plot.bounding_box()
        assert box["width"] > 300
        assert box["height"] > 100
        assert plot.locator("text").first.bounding_box()["height"] > 6
    images = page.locator("img")
    assert images.count() == 2
    for image in images.all():
        assert image.evaluate("e => e.complete && e.naturalWidth") == 6 * 240
        assert image.get_attribute("alt")
    assert page.locator("li.flag").count() == 10
    assert page.locator("li.flag.unreliable .badge").inner_text() == "✕ unreliable"
    for evidence in page.locator("pre").all():
        assert evidence.is_visible()


@pytest.mark.parametrize("width", WIDTHS)
def test_leaderboard(browser, leaderboard, tmp_path, width):
    opened = Opened(browser, leaderboard, width)
    opened.check(leaderboard)
    opened.page.screenshot(path=tmp_path / "leaderboard.png", full_page=True)
    entries = opened.page.locator("tr.entry")
    assert entries.count() == 4
    for entry in entries.all():
        assert entry.locator("th").is_visible()
        assert entry.locator(".badge").is_visible()
    assert opened.page.locator("tr.ranked td.rank").all_inner_texts() == ["1", "2", "2"]
    assert opened.page.locator("tr.unranked .reason").inner_text() == "a check failed (3 gradients)"


# WCAG's contrast for small letters.
CONTRAST = """[...document.querySelectorAll('p, th, td, dt, dd, small, summary, figcaption, .badge, text')].map(e => {
    const rgb = text => text.match(/[\\d.]+/g).map(Number);
    const luminance = c => c.slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    let below = e;
    const filled = c => c.length < 4 || c[3] > 0;
    while (below && !filled(rgb(getComputedStyle(below).backgroundColor))) below = below.parentElement;
    const style = getComputedStyle(e);
    const page = luminance(rgb(getComputedStyle(below || document.body).backgroundColor));
    const ink = luminance(rgb(e.tagName === 'text' ? style.fill : style.color));
    return [(Math.max(page, ink) + 0.05) / (Math.min(page, ink) + 0.05), e.textContent.slice(0, 40)];
}).sort((a, b) => a[0] - b[0])[0]"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_can_be_read(browser, report, scheme):
    opened = Opened(browser, report, 1280, scheme)
    page_colour = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (page_colour == "rgb(255, 255, 255)") == (scheme == "light")
    contrast, text = opened.page.evaluate(CONTRAST)
    assert contrast >= 4.5, text


def test_print_is_light_and_shows_what_is_closed(browser, report):
    # What margins leave of A4.
    opened = Opened(browser, report, 718, "dark")
    opened.page.emulate_media(media="print")
    opened.check_width()
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    if opened.page.evaluate("CSS.supports('selector(::details-content)')"):
        assert opened.page.locator("pre").first.evaluate("e => e.checkVisibility()")
        opened.page.emulate_media(media="screen")
        assert not opened.page.locator("pre").first.evaluate("e => e.checkVisibility()")
        opened.page.emulate_media(media="print")
    assert opened.page.pdf(format="A4").startswith(b"%PDF")
