"""Every figure has a row, and is shown where its row says."""

from __future__ import annotations

import pytest
import torch

from robustseg.evaluation import Card
from robustseg.evaluation.build_card import scores_in_8bit
from robustseg.evaluation.figures import BY_KEY, FIGURES, LOGGED, SCORES, keys_in, shown_in
from robustseg.evaluation.record import COLUMNS, summarise
from robustseg.evaluation.report import view
from robustseg.evaluation.report.leaderboard import COLUMNS as LEADERBOARD
from robustseg.evaluation.results import distances_table, scores_table
from robustseg.metrics import SegmentationScores, scores_from_counts
from robustseg.studies.study import SCORE_COLUMNS
from tests.evaluation.report.cards import make_card, small_card, typed
from tests.helpers.tables import texts

VALUES = {figure.key: (place + 1) / 64 for place, figure in enumerate(FIGURES)}
"""Another number for each figure."""


def complete_card(**settings) -> Card:
    """A card in which one attack has every figure."""
    row = {**VALUES, "without_valid_pixels": 3, "settings": {"attack": "PGD", **settings}, "error": None}
    return small_card(attacks={"pgd": row}, worst_case=None)


def test_what_is_measured_has_a_row_and_nothing_else_has():
    counts = torch.tensor([[[3, 1], [4, 2], [4, 2]]])
    measured = summarise(torch.rand(2, len(COLUMNS), dtype=torch.float64))
    assert set(BY_KEY) == {*scores_from_counts(counts), *measured, *scores_in_8bit(counts)}
    metric = SegmentationScores(2)
    metric.update(torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 2).long())
    assert set(SCORES) == set(scores_from_counts(counts)) == set(metric.compute()) - {"class_iou", "images"}
    assert len(BY_KEY) == len(FIGURES)


def test_every_row_is_shown_where_it_says():
    card = complete_card(eps="8/255")
    assert scores_table(card).headings == ["attack", *keys_in("terminal")]
    (row,) = [row for row in view.rows(card) if row.name == "pgd"]
    for figure in shown_in("report"):
        assert view.COLUMNS[figure.key] == figure.heading
        assert row.cells[figure.key].text not in ("", "–")
    assert [key for key in view.COLUMNS if key.startswith("gap_")] == [f"gap_{key}" for key in keys_in("report gap")]
    headings, ((_, cells),) = view.size_table(card)
    assert headings == [figure.heading for figure in shown_in("sizes")]
    assert "–" not in cells
    assert distances_table(complete_card(eps=None)).headings == ["attack", *(f.heading for f in shown_in("distances"))]
    assert list(LEADERBOARD)[:-2] == [f"{part}_{key}" for part in ("worst", "clean") for key in keys_in("leaderboard")]
    assert list(SCORE_COLUMNS) == list(keys_in("study"))


def test_orders_and_names_are_those_of_the_first_version_and_one_more():
    assert keys_in("terminal") == (
        "pixel_acc", "miou", "image_miou", "mean_acc", "miou_8bit", "target_success", "forwards", "backwards"
    )  # fmt: skip
    assert keys_in("report") == ("pixel_acc", "mean_acc", "miou", "image_miou", "miou_8bit", "forwards", "backwards")
    assert keys_in("study") == ("miou", "pixel_acc", "mean_acc", "image_miou", "forwards", "backwards")
    assert LOGGED == {"pixel_acc": "pixel_acc", "miou": "miou", "image_miou": "image_miou"}
    assert {figure.key for figure in FIGURES if figure.better == "higher"} >= set(SCORES)


@pytest.mark.parametrize("key", [figure.key for figure in FIGURES if figure.required])
def test_a_score_that_is_missing_is_shown_as_such(key):
    card = make_card()
    card["clean"][key] = None
    table = scores_table(typed(card))
    assert dict(zip(table.headings, texts(table)[0], strict=True))[key] == "–"
