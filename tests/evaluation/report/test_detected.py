"""What the report says of detectors, and that it says nothing where there are none."""

from __future__ import annotations

import pytest

from robustseg.evaluation.report import ReportError
from robustseg.evaluation.results import rejection_table
from tests.evaluation.report.cards import board_of, changed, make_card, markdown_of, page_of, typed
from tests.evaluation.report.pages import parse
from tests.evaluation.report.test_cards import without
from tests.helpers.tables import printed


def row(rejected, images, pixel_acc, counted, **more):
    accepted = {"images": images, "pixel_acc": pixel_acc, "miou": pixel_acc and pixel_acc / 2}
    return {"error": None, "rejected": rejected, "accepted": accepted, "with_rejection": {"pixel_acc": counted}, **more}


def detected(name="spatial"):
    card = make_card()
    card["detectors"] = {
        name: {
            "settings": {"detector": "SpatialConsistency", "patch_size": 512, "k": 50, "displacement": [32, 64]},
            "threshold": {"value": 0.61234, "false_positive_rate": 0.05, "images": 100},
            "clean": row(0.04, 97, 0.9, 0.866),
            "attacks": {
                "pgd20": row(0.75, 25, 0.5, 0.871, auc=0.912),
                "fgsm": row(1.0, 0, None, 1.0, auc=1.0),
                "broken": {"error": "no gradient"},
            },
        }
    }
    return card


@pytest.fixture(autouse=True)
def _without_plots(monkeypatch):
    monkeypatch.setattr("robustseg.evaluation.report.page.draw_plots", lambda card, curves: [])


EXPECTED = [
    ["spatial", "clean", "4.00", "", "97", "90.00", "45.00", "86.60"],
    ["spatial", "pgd20", "75.00", "91.20", "25", "50.00", "25.00", "87.10"],
    ["spatial", "fgsm", "100.00", "100.00", "0", "–", "–", "100.00"],
    ["spatial", "broken", "could not run", "–", "–", "–", "–", "–"],
]


def test_page():
    page = parse(page_of(detected()))
    headings, *rows = page.all("table", "detectors")[0].table()
    assert headings == [
        "detector", "attack", "rejected", "AUC", "images accepted", "accepted pixel_acc", "accepted miou",
        "pixel_acc with rejection",
    ]  # fmt: skip
    assert rows == EXPECTED
    assert "score below 0.6123: at most 5.0 % of the 100 benign training images" in page.text
    assert "None of these attacks knows of a detector" in page.text
    assert "Settings of spatial SpatialConsistency" in page.text
    assert "[32, 64]" in page.text


def test_markdown():
    text = markdown_of(detected())
    lines = [line for line in text.splitlines() if line.startswith("| spatial |")]
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines] == EXPECTED
    assert "### spatial (SpatialConsistency)" in text


def test_terminal():
    text = printed(rejection_table(typed(detected())))
    assert "86.60 *" in text
    assert "could not run" in text
    assert "91.20" in text
    assert rejection_table(typed(make_card())) is None


def test_attacks_that_are_made_against_a_detector_are_told_from_others():
    for change in ({"attack": "OnPatches"}, {"inner": {"attack": "OnPatches"}}, {"members": [{"attack": "OnPatches"}]}):
        settings = make_card()["attacks"]["pgd20"]["settings"] | change
        page = parse(page_of(changed(detected(), "attacks.pgd20.settings", settings)))
        assert "None of these attacks knows of a detector" not in page.text
        assert "go by those that are made against it" in page.text


def test_without_detectors_nothing_is_said_of_them():
    for card in (make_card(), changed(make_card(), "detectors", {})):
        for text in (page_of(card), markdown_of(card)):
            assert "etector" not in text
    assert page_of(changed(make_card(), "detectors", {})) == page_of(make_card())


def test_names_come_from_users():
    evil = "<script>alert(1)</script> | `*"
    assert "<script>" not in page_of(detected(evil))
    (line, *_) = [line for line in markdown_of(detected(evil)).splitlines() if "| clean |" in line and "97" in line]
    assert line.replace("\\|", "").count("|") == 9


def test_cards_with_and_without_detectors_can_be_compared():
    other = make_card(sha256="f" * 64)
    assert board_of({"a": detected(), "b": other}).tables[0].entries[0].rank == 1


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("threshold.value", 1.5, "detectors.spatial.threshold.value = 1.5 is not a share"),
        ("threshold.images", None, "detectors.spatial.threshold.images is missing"),
        ("clean.rejected", -0.1, "detectors.spatial.clean.rejected = -0.1 is not a share"),
        ("attacks.pgd20.auc", "high", "detectors.spatial.attacks.pgd20.auc = 'high' is not a share"),
        ("attacks.pgd20.accepted", None, "detectors.spatial.attacks.pgd20.accepted is missing"),
        ("attacks.pgd20.accepted.miou", 2, "detectors.spatial.attacks.pgd20.accepted.miou = 2 is not a share"),
        (
            "attacks.pgd20.with_rejection.pixel_acc",
            3,
            "detectors.spatial.attacks.pgd20.with_rejection.pixel_acc = 3",
        ),
    ],
)
def test_what_is_no_card(key, value, said):
    with pytest.raises(ReportError, match=said):
        typed(changed(detected(), f"detectors.spatial.{key}", value))


@pytest.mark.parametrize("key", ["settings", "threshold", "clean", "attacks", "attacks.pgd20.auc"])
def test_a_missing_part(key):
    with pytest.raises(ReportError, match=rf"detectors\.spatial.*{key.rpartition('.')[2]} is missing"):
        typed(without(detected(), f"detectors.spatial.{key}"))
