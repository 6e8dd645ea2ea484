from __future__ import annotations

import math

import pytest
import torch

from robustseg.training import LearningRateFactor, count_valid, update_loss
from tests.helpers.nets import toy_batch


def literal_means(logits, targets, clean):
    """Mean cross-entropy of the clean and of the adversarial part, pixel by pixel; and of everything."""
    sums, counts = [0.0, 0.0], [0, 0]
    for image in range(len(targets)):
        part = 0 if image < clean else 1
        for row in range(targets.shape[1]):
            for column in range(targets.shape[2]):
                label = int(targets[image, row, column])
                if label == 255:
                    continue
                pixel = [float(value) for value in logits[image, :, row, column]]
                sums[part] += math.log(sum(math.exp(value) for value in pixel)) - pixel[label]
                counts[part] += 1
    means = [total / count if count else 0.0 for total, count in zip(sums, counts, strict=True)]
    return means[0], means[1], sum(sums) / sum(counts)


@pytest.mark.parametrize("clean", [0, 1, 3, 4])
def test_combinations_against_a_literal_reference(clean):
    targets = toy_batch(4).targets
    logits = torch.randn(4, 4, 12, 12, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    mean_clean, mean_adversarial, mean_all = literal_means(logits, targets, clean)
    valid = count_valid(targets, clean, 255)
    summed = update_loss(logits, targets, clean, valid, "sum_of_means", 255)
    joint = update_loss(logits, targets, clean, valid, "mean", 255)
    assert float(summed.total) == pytest.approx(mean_clean + mean_adversarial, rel=1e-12)
    assert float(joint.total) == pytest.approx(mean_all, rel=1e-12)
    assert float(joint.clean) == pytest.approx(mean_clean, rel=1e-12)
    assert float(joint.adversarial) == pytest.approx(mean_adversarial, rel=1e-12)


def test_standard_training_is_the_plain_mean_in_both_combinations():
    targets = toy_batch(3).targets
    logits = torch.randn(3, 4, 12, 12, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.cross_entropy(logits, targets, ignore_index=255)
    valid = count_valid(targets, 3, 255)
    for combination in ("sum_of_means", "mean"):
        torch.testing.assert_close(update_loss(logits, targets, 3, valid, combination, 255).total, expected)


def test_a_batch_without_valid_pixels_gives_zero_and_not_nan():
    targets = torch.full((2, 4, 4), 255)
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = update_loss(logits, targets, 1, count_valid(targets, 1, 255), "sum_of_means", 255).total
    loss.backward()
    assert float(loss) == 0
    assert not logits.grad.any()


def test_half_precision_logits_are_computed_in_float32():
    targets = toy_batch(2).targets
    logits = torch.randn(2, 4, 12, 12).bfloat16()
    loss = update_loss(logits, targets, 1, count_valid(targets, 1, 255), "mean", 255).total
    assert loss.dtype == torch.float32
    expected = torch.nn.functional.cross_entropy(logits.float(), targets, ignore_index=255)
    torch.testing.assert_close(loss, expected)


def test_schedules_at_known_points():
    poly = LearningRateFactor("poly", steps=100)
    assert poly(0) == 1
    assert poly(50) == pytest.approx(0.5**0.9)
    assert poly(100) == 0
    cosine = LearningRateFactor("cosine", steps=100)
    assert (cosine(0), cosine(50), cosine(100)) == pytest.approx((1, 0.5, 0))
    warm = LearningRateFactor("constant", steps=100, warmup_steps=4)
    assert [warm(step) for step in (0, 1, 3, 4, 99)] == pytest.approx([0.2, 0.4, 0.8, 1, 1])
