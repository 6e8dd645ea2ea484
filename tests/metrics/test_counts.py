"""Scores from three counts per class against the formulas on whole matrices, to the last bit."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustseg.metrics import (
    class_counts,
    class_iou,
    class_iou_from_counts,
    mean_acc,
    mean_acc_from_counts,
    miou,
    miou_from_counts,
    pixel_acc,
    pixel_acc_from_counts,
)
from robustseg.metrics.counts import check_counts


def on_matrices(confusion: torch.Tensor) -> dict[str, torch.Tensor]:
    """The textbook formulas in float64, written on the matrix."""
    matrix = confusion.double()
    right, true, predicted = matrix.diagonal(dim1=-2, dim2=-1), matrix.sum(-1), matrix.sum(-2)
    iou = right / (true + predicted - right)
    return {
        "class_iou": iou,
        "miou": iou.nanmean(-1),
        "pixel_acc": right.sum(-1) / matrix.sum((-1, -2)),
        "mean_acc": (right / true).nanmean(-1),
    }


BOTH = {
    "class_iou": (class_iou, class_iou_from_counts),
    "miou": (miou, miou_from_counts),
    "pixel_acc": (pixel_acc, pixel_acc_from_counts),
    "mean_acc": (mean_acc, mean_acc_from_counts),
}


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(1, 20), st.sampled_from([(), (4,), (2, 3)]), st.sampled_from([3, 1000, 2**40])
)
def test_bit_identical_with_the_formulas_on_matrices(seed: int, classes: int, leading: tuple, most: int):
    generator = torch.Generator().manual_seed(seed)
    confusion = torch.randint(0, most, (*leading, classes, classes), generator=generator)
    confusion[torch.rand(confusion.shape, generator=generator) < 0.5] = 0
    counts = class_counts(confusion)
    for name, expected in on_matrices(confusion).items():
        for function, given_ in zip(BOTH[name], (confusion, counts), strict=True):
            torch.testing.assert_close(function(given_), expected, rtol=0, atol=0, equal_nan=True)


def test_closed_form():
    counts = class_counts(torch.tensor([[3, 1, 0, 0], [0, 4, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0]]))
    assert counts.tolist() == [[3, 4, 0, 0], [4, 6, 0, 0], [3, 5, 0, 2]]
    assert counts.dtype == torch.long
    expected = torch.tensor([3 / 4, 4 / 7, math.nan, 0]).double()
    torch.testing.assert_close(class_iou_from_counts(counts), expected, equal_nan=True)
    assert float(miou_from_counts(counts)) == pytest.approx((3 / 4 + 4 / 7) / 3)
    assert float(pixel_acc_from_counts(counts)) == 0.7
    assert float(mean_acc_from_counts(counts)) == pytest.approx((3 / 4 + 4 / 6) / 2)


def test_no_valid_pixel_has_no_score():
    counts = torch.zeros(2, 3, 5, dtype=torch.long)
    for _, function in BOTH.values():
        assert function(counts).isnan().all()


def test_counts_add_up():
    confusion = torch.randint(0, 9, (6, 4, 4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(class_counts(confusion).sum(0), class_counts(confusion.sum(0)))


def test_shapes_are_refused():
    for shape in ((3, 4), (5,)):
        with pytest.raises(ValueError, match=r"confusion of shape .*C×C"):
            class_counts(torch.zeros(shape, dtype=torch.long))
    for _, function in BOTH.values():
        for shape in ((5, 4, 4), (3,)):
            with pytest.raises(ValueError, match=r"counts of shape .*3×C, as class_counts"):
                function(torch.zeros(shape, dtype=torch.long))


def test_a_matrix_of_three_classes_does_not_pass_for_counts():
    matrix = torch.tensor([[[5, 1, 0], [2, 7, 0], [0, 1, 3]]])
    check_counts(class_counts(matrix), "N")
    with pytest.raises(ValueError, match=r"counts hold more .* class_counts"):
        check_counts(matrix, "N")


@pytest.mark.parametrize(
    "broken",
    [
        [[5, 0], [4, 4], [5, 3]],  # more true positives than true pixels
        [[5, 0], [5, 3], [4, 4]],  # more true positives than predicted pixels
        [[-1, 1], [4, 4], [4, 4]],
    ],
)
def test_counts_that_no_predictions_have_are_refused(broken: list):
    with pytest.raises(ValueError, match=r"counts hold more true positives"):
        check_counts(torch.tensor([broken]), "N")
