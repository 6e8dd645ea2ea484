"""The study's page in a real browser, offline."""

from __future__ import annotations

import pytest

from tests.evaluation.report.test_browser import CHROMIUM, WIDTHS, Opened, browser  # noqa: F401
from tests.studies.detection.tiny import detection, transfer_of

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    result = transfer_of(folder, detection(adaptive=["pgd_pure"], redrawn_k=[1], transfer=["pgd_pure"]))
    return result, folder / "study_detection.html"


@pytest.mark.parametrize("width", WIDTHS)
def test_page(browser, page, tmp_path, width):  # noqa: F811
    result, path = page
    opened = Opened(browser, path, width)
    opened.check(path)
    opened.page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert opened.page.locator("table").count() >= len(result.tables)
    plots = opened.page.locator("svg.plot")
    assert plots.count() == len(result.plots)
    for plot in plots.all():
        box = plot.bounding_box()
        assert box["width"] > 300
        assert box["height"] > 100
    # pictures are in the page itself, and drawn
    for image in opened.page.locator("svg.plot image").all():
        assert image.get_attribute("href").startswith("data:image/png")
        assert image.bounding_box()["width"] > 20
    assert opened.page.locator("svg.plot image").count() >= 2 * 2 * 4
