from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassJaccardIndex

from robustseg.metrics import (
    SegmentationScores,
    class_iou,
    confusion_matrix,
    mean_acc,
    miou,
    misratio,
    pixel_acc,
    target_success,
)


def literal_scores(predictions, targets, num_classes, ignore):
    """Pixel by pixel over everything: miou, pixel_acc, mean_acc, image_miou."""

    def of(pairs):
        ious, accuracies = [], []
        for label in range(num_classes):
            both = sum(1 for true, guess in pairs if true == label and guess == label)
            either = sum(1 for true, guess in pairs if label in (true, guess))
            true_count = sum(1 for true, _ in pairs if true == label)
            if either:
                ious.append(both / either)
            if true_count:
                accuracies.append(both / true_count)
        right = sum(1 for true, guess in pairs if true == guess)
        nan = math.nan
        return (
            sum(ious) / len(ious) if ious else nan,
            right / len(pairs) if pairs else nan,
            sum(accuracies) / len(accuracies) if accuracies else nan,
        )

    images = []
    for guess, true in zip(predictions.tolist(), targets.tolist(), strict=True):
        flat = [(t, g) for trow, grow in zip(true, guess, strict=True) for t, g in zip(trow, grow, strict=True)]
        images.append([pair for pair in flat if pair[0] != ignore])
    own = [value for value in (of(pairs)[0] for pairs in images) if not math.isnan(value)]
    return (*of([pair for pairs in images for pair in pairs]), sum(own) / len(own) if own else math.nan)


def example(seed, num_classes, ignore, batch=5, side=6):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, num_classes, (batch, side, side), generator=generator)
    predictions = torch.randint(0, max(1, num_classes - 1), (batch, side, side), generator=generator)
    targets[torch.rand(targets.shape, generator=generator) < 0.2] = ignore
    targets[-1] = ignore  # an image without any valid pixel
    return predictions, targets


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 7), st.sampled_from([255, -1, 100]))
def test_scores_against_a_literal_reference(seed, num_classes, ignore):
    predictions, targets = example(seed, num_classes, ignore)
    scores = SegmentationScores(num_classes, ignore)
    for start in (0, 2, 4):  # uneven batches
        scores.update(predictions[start : start + 2], targets[start : start + 2])
    result = scores.compute()
    figures = [float(result[name]) for name in ("miou", "pixel_acc", "mean_acc", "image_miou")]
    assert figures == pytest.approx(literal_scores(predictions, targets, num_classes, ignore), nan_ok=True)
    assert int(result["images"]) == 5


def test_parity_with_torchmetrics():
    predictions, targets = example(3, 6, 255)
    peer = MulticlassJaccardIndex(6, average="macro", ignore_index=255)
    confusion = confusion_matrix(predictions, targets, 6).sum(0)
    torch.testing.assert_close(miou(confusion).float(), peer(predictions, targets))


def test_closed_form():
    confusion = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    torch.testing.assert_close(class_iou(confusion), torch.tensor([0.75, 0.8, math.nan]).double(), equal_nan=True)
    assert float(miou(confusion)) == pytest.approx((0.75 + 0.8) / 2)
    assert float(pixel_acc(confusion)) == 7 / 8
    assert float(mean_acc(confusion)) == (0.75 + 1) / 2
    assert float(misratio(confusion)) == 1 / 8


def test_nothing_under_ignored_pixels_counts():
    predictions, targets = example(1, 4, 255)
    other = torch.where(targets == 255, (predictions + 1) % 4, predictions)
    assert torch.equal(confusion_matrix(predictions, targets, 4), confusion_matrix(other, targets, 4))


@pytest.mark.parametrize("which", ["targets", "predictions"])
def test_ids_outside_of_the_classes_are_refused(which):
    predictions, targets = example(1, 4, 255)
    (targets if which == "targets" else predictions)[0] = 9
    with pytest.raises(ValueError, match=rf"{which}.*4 classes.*ignore_index"):
        confusion_matrix(predictions, targets, 4)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="B×H×W"):
        confusion_matrix(torch.zeros(1, 2, 2), torch.zeros(1, 3, 2), 4)


def test_counts_do_not_overflow_or_lose_integers_when_the_module_is_halved():
    scores = SegmentationScores(2).half()
    scores.update(torch.zeros(1, 300, 300).long(), torch.zeros(1, 300, 300).long())
    assert scores.confusion.dtype == torch.long
    assert int(scores.confusion[0, 0]) == 90_000


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([255, -1]))
def test_target_success_against_a_literal_reference(seed, ignore):
    predictions, targets = example(seed, 3, ignore)
    wanted = example(seed + 1, 3, ignore)[1].roll(1, 0)
    figures = target_success(predictions, wanted, targets, ignore).tolist()
    for image, figure in enumerate(figures):
        pixels = zip(
            *(x[image].flatten().tolist() for x in (predictions, wanted, targets)),
            strict=True,
        )
        counted = [guess == aim for guess, aim, true in pixels if ignore not in (aim, true) and aim != true]
        assert figure == pytest.approx(sum(counted) / len(counted) if counted else math.nan, nan_ok=True)


def test_target_success_closed_form():
    targets = torch.tensor([[[0, 0, 1, 1, 255, 2]], [[1, 1, 1, 1, 1, 255]]])
    wanted = torch.tensor([[[1, 1, 1, 2, 1, 255]], [[1, 1, 1, 1, 1, 1]]])
    predictions = torch.tensor([[[1, 0, 1, 2, 1, 255]], [[1, 1, 1, 1, 1, 1]]])
    first, second = target_success(predictions, wanted, targets).tolist()
    assert first == 2 / 3
    assert math.isnan(second)
    with pytest.raises(ValueError, match="must all be B×H×W"):
        target_success(predictions, wanted[:1], targets)
