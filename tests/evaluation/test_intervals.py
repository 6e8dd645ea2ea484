"""Intervals that would have no width are absent, with the reason, wherever figures are shown."""

from __future__ import annotations

import torch

from robustseg.evaluation.build_card import scores
from robustseg.evaluation.card import Scores
from robustseg.evaluation.checks.flag import points
from robustseg.evaluation.report.wording import span
from robustseg.evaluation.table import figure
from robustseg.metrics import FEWEST_IMAGES

NAMES = ["road", "sky"]
CLASSES = [*NAMES, "car"]


def counts(images: list[list[list[int]]]) -> torch.Tensor:
    """N×3×2 of true positives, pixels of the ground truth and of the prediction."""
    return torch.tensor(images, dtype=torch.int64)


ONE = [[6, 2], [8, 8], [12, 4]]
OTHER = [[8, 1], [8, 8], [15, 1]]
WRONG = [[0, 0], [8, 8], [8, 8]]
VOID = [[0, 0], [0, 0], [0, 0]]


def test_identical_images_have_none():
    row = scores(counts([ONE] * 8), NAMES)
    assert row["confidence"] == {}
    assert row["no_confidence"] == "8 images with the same figures: resampling shows no spread"


def test_images_that_are_all_wrong_have_none():
    assert scores(counts([WRONG] * 6), NAMES)["confidence"] == {}


def test_one_image_among_those_without_valid_pixels_has_none():
    row = scores(counts([ONE] + [VOID] * 9), NAMES)
    assert row["confidence"] == {}
    assert "1 image with valid pixels" in row["no_confidence"]


def test_a_figure_without_spread_has_none_beside_others_that_have_one():
    """Images whose accuracies agree, and whose classes do not."""
    swapped = [[2, 6], [8, 8], [4, 12]]
    mixed = [[4, 4], [8, 8], [8, 8]]
    row = scores(counts([ONE, swapped, mixed, ONE, swapped, mixed]), NAMES)
    assert "pixel_acc" not in row["confidence"], "each image has 8 of 16 pixels right"
    assert row["confidence"]["image_miou"][0] < row["confidence"]["image_miou"][1]
    assert "no_confidence" not in row


def test_a_spread_of_rounding_is_none():
    """Three classes take turns in three IoUs, so that their mean is the same for any images."""
    turns = [[2, 4, 16], [2, 16, 4], [4, 2, 16], [4, 16, 2], [16, 2, 4], [16, 4, 2]]
    row = scores(counts([[each, [10 + n // 2 for n in each], [10 + n // 2 for n in each]] for each in turns]), CLASSES)
    assert set(row["confidence"]) == {"mean_acc"}


def test_different_images_have_one():
    row = scores(counts([ONE, OTHER] * FEWEST_IMAGES), NAMES)
    assert all(low < high for low, high in row["confidence"].values())
    assert set(row["confidence"]) == {"pixel_acc", "mean_acc", "miou", "image_miou"}


def test_cards_of_earlier_versions_show_none():
    figures = dict.fromkeys(Scores.needed, 0.5)
    row = Scores.model_validate({**figures, "confidence": {"miou": [0.5, 0.5], "pixel_acc": [0.1, 0.2]}})
    assert row.interval("miou") is None
    assert row.interval("pixel_acc") == (0.1, 0.2)


def test_a_narrow_one_is_written_with_the_decimals_that_it_takes():
    assert points(0.0002) == "less than 0.1 points"
    assert points(0.0123) == "1.2 points"
    assert span((0.50001, 0.50004)) == "50.001–50.004"
    assert span((0.41, 0.52)) == "41.0–52.0"
    assert figure(0.5, 2, 100, (0.50001, 0.50004)).below == "50.001–50.004"
