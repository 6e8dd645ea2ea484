"""Scores with a detector in front of the model, against loops over pixels and in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustseg.evaluation.build_card import scores
from robustseg.evaluation.rejection import has_valid_pixels, rejection_scores
from robustseg.metrics import class_counts, confusion_matrix

CLASSES = 3
IGNORED = 255


def scene(seed=0, images=5):
    """Predictions that are right in two of three pixels; the third image has no valid pixel."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(CLASSES, (images, 4, 5), generator=generator)
    noise = torch.rand(images, 4, 5, generator=generator)
    predictions = torch.where(noise < 2 / 3, targets, (targets + 1) % CLASSES)
    targets[:, 0, :2] = IGNORED
    targets[2] = IGNORED
    return predictions, targets


def counts_of(predictions, targets):
    return class_counts(confusion_matrix(predictions, targets, CLASSES, IGNORED))


def literal(predictions, targets, rejected, adversarial):
    """By the definition, one pixel at a time."""
    total = right = passed_total = passed_right = thrown = shown = 0
    both, either = [0] * CLASSES, [0] * CLASSES
    for image, target, out in zip(predictions.tolist(), targets.tolist(), rejected, strict=True):
        pixels = [
            (p, t) for row, true in zip(image, target, strict=True) for p, t in zip(row, true, strict=True) if t != 255
        ]
        if not pixels:
            continue
        thrown, shown = thrown + bool(out), shown + 1
        for p, t in pixels:
            total += 1
            if out:
                right += adversarial
                continue
            right += p == t
            passed_total += 1
            passed_right += p == t
            for c in range(CLASSES):
                both[c] += p == c and t == c
                either[c] += p == c or t == c
    ious = [b / e for b, e in zip(both, either, strict=True) if e]
    return {
        "rejected": thrown / shown if shown else None,
        "accepted": {
            "images": shown - thrown,
            "pixel_acc": passed_right / passed_total if passed_total else None,
            "miou": sum(ious) / len(ious) if ious else None,
        },
        "with_rejection": {"pixel_acc": right / total if total else None},
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.lists(st.booleans(), min_size=5, max_size=5), st.booleans())
def test_figures_are_those_of_loops_over_pixels(seed, rejected, adversarial):
    predictions, targets = scene(seed)
    found = rejection_scores(counts_of(predictions, targets), torch.tensor(rejected), adversarial=adversarial)
    expected = literal(predictions, targets, rejected, adversarial)
    assert found["accepted"]["images"] == expected["accepted"]["images"]
    for part, key in (("accepted", "pixel_acc"), ("accepted", "miou"), ("with_rejection", "pixel_acc")):
        assert found[part][key] == (None if expected[part][key] is None else pytest.approx(expected[part][key]))
    assert found["rejected"] == pytest.approx(expected["rejected"])


@pytest.mark.parametrize("adversarial", [True, False])
def test_nothing_rejected_is_the_card_and_everything_is_one_or_zero(adversarial):
    counts = counts_of(*scene())
    plain = scores(counts, ["a", "b", "c"])
    nothing = rejection_scores(counts, torch.zeros(5, dtype=torch.bool), adversarial=adversarial)
    assert nothing["rejected"] == 0
    assert nothing["accepted"] == {"images": 4, "pixel_acc": plain["pixel_acc"], "miou": plain["miou"]}
    assert nothing["with_rejection"] == {"pixel_acc": plain["pixel_acc"]}
    everything = rejection_scores(counts, torch.ones(5, dtype=torch.bool), adversarial=adversarial)
    assert everything == {
        "rejected": 1.0,
        "accepted": {"images": 0, "pixel_acc": None, "miou": None},
        "with_rejection": {"pixel_acc": float(adversarial)},
    }


def test_large_images_weigh_more():
    """Two images of which one has three times the pixels: 30 of 40 right there, 10 of 10 here."""
    counts = torch.tensor([[[30, 0, 0], [40, 0, 0], [30, 10, 0]], [[10, 0, 0], [10, 0, 0], [10, 0, 0]]])
    found = rejection_scores(counts, torch.tensor([False, True]), adversarial=False)
    assert found["with_rejection"]["pixel_acc"] == pytest.approx(30 / 50)
    found = rejection_scores(counts, torch.tensor([True, False]), adversarial=True)
    assert found == {
        "rejected": 0.5,
        "accepted": {"images": 1, "pixel_acc": 1.0, "miou": 1.0},
        "with_rejection": {"pixel_acc": 1.0},
    }


def test_the_order_of_the_images_does_not_matter():
    counts, rejected = counts_of(*scene(3)), torch.tensor([True, False, True, False, False])
    order = torch.tensor([4, 2, 0, 3, 1])
    assert rejection_scores(counts, rejected, adversarial=True) == rejection_scores(
        counts[order], rejected[order], adversarial=True
    )


def test_images_without_valid_pixels_take_no_part():
    predictions, targets = scene()
    counts = counts_of(predictions, targets)
    assert has_valid_pixels(counts).tolist() == [True, True, False, True, True]
    rejected = torch.tensor([True, False, True, False, False])
    kept = torch.tensor([0, 1, 3, 4])
    assert rejection_scores(counts, rejected, adversarial=True) == rejection_scores(
        counts[kept], rejected[kept], adversarial=True
    )
    nothing = rejection_scores(counts[2:3], rejected[2:3], adversarial=True)
    assert nothing["rejected"] is nothing["with_rejection"]["pixel_acc"] is None
    assert not any(isinstance(value, float) and math.isnan(value) for value in nothing["accepted"].values())


@pytest.mark.parametrize("rejected", [torch.zeros(4, dtype=torch.bool), torch.zeros(5), torch.zeros(5, 1).bool()])
def test_something_else_than_a_bool_for_each_image(rejected):
    with pytest.raises(ValueError, match=r"rejected is .* for the counts of 5 images: give a bool"):
        rejection_scores(counts_of(*scene()), rejected, adversarial=True)


def test_confusion_matrices_are_no_counts():
    predictions, targets = scene()
    matrices = confusion_matrix(predictions, targets, CLASSES, IGNORED)
    with pytest.raises(ValueError, match="class_counts"):
        rejection_scores(matrices, torch.zeros(5, dtype=torch.bool), adversarial=True)
