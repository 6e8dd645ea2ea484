"""Weights of the classes in the loss of an update."""

from __future__ import annotations

import math

import pytest
import torch

from robustseg.data import SyntheticScenes
from robustseg.training import TrainingError, count_valid, update_loss
from robustseg.training.class_weights import check_class_weights, class_weights
from tests.helpers.nets import toy_batch

CPU = torch.device("cpu")
WEIGHTS = [0.5, 0.0, 2.0, 7.25]


def literal(logits, targets, images):
    """Σ w_y·(logsumexp(u) − u_y) / Σ w_y over the valid pixels of some images, pixel by pixel; 0 without any."""
    above = below = 0.0
    for image in images:
        for row in range(targets.shape[1]):
            for column in range(targets.shape[2]):
                label = int(targets[image, row, column])
                if label != 255:
                    pixel = [float(value) for value in logits[image, :, row, column]]
                    above += WEIGHTS[label] * (math.log(sum(math.exp(value) for value in pixel)) - pixel[label])
                    below += WEIGHTS[label]
    return above / below if below else 0.0


@pytest.mark.parametrize("clean", [0, 1, 3, 4])
def test_against_a_literal_reference(clean):
    targets = toy_batch(4).targets
    logits = torch.randn(4, 4, 12, 12, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    weights = torch.tensor(WEIGHTS)
    valid = count_valid(targets, clean, 255, weights)
    summed = update_loss(logits, targets, clean, valid, "sum_of_means", 255, weights)
    joint = update_loss(logits, targets, clean, valid, "mean", 255, weights)
    parts = literal(logits, targets, range(clean)), literal(logits, targets, range(clean, 4))
    assert float(summed.clean) == pytest.approx(parts[0], rel=1e-12)
    assert float(summed.adversarial) == pytest.approx(parts[1], rel=1e-12)
    assert float(summed.total) == pytest.approx(sum(parts), rel=1e-12)
    assert float(joint.total) == pytest.approx(literal(logits, targets, range(4)), rel=1e-12)
    if clean == 4:
        expected = torch.nn.functional.cross_entropy(logits, targets, weights.double(), ignore_index=255)
        torch.testing.assert_close(joint.total, expected, rtol=1e-12, atol=0)


def test_equal_weights_change_nothing():
    targets = toy_batch(3).targets
    logits = torch.randn(3, 4, 12, 12, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    plain = update_loss(logits, targets, 1, count_valid(targets, 1, 255), "sum_of_means", 255).total
    for weight in (1.0, 0.001):
        weights = torch.full((4,), weight)
        valid = count_valid(targets, 1, 255, weights)
        torch.testing.assert_close(
            update_loss(logits, targets, 1, valid, "sum_of_means", 255, weights).total, plain, rtol=1e-12, atol=0
        )


def test_pixels_of_classes_without_weight_give_zero_and_not_nan():
    weights, targets = torch.tensor(WEIGHTS), torch.ones(2, 4, 4, dtype=torch.long)
    logits = torch.randn(2, 4, 4, 4, requires_grad=True)
    loss = update_loss(logits, targets, 1, count_valid(targets, 1, 255, weights), "mean", 255, weights).total
    loss.backward()
    assert float(loss) == 0
    assert not logits.grad.any()


class Counted(SyntheticScenes):
    pixels = (100, 300, 0, 600)

    def class_pixels(self, split="train"):
        assert split == "train"
        return self.pixels


def test_rules():
    data = Counted()
    assert class_weights(None, object(), CPU) is None
    assert class_weights(WEIGHTS, object(), CPU).tolist() == WEIGHTS
    inverse = [1 / 100, 1 / 300, 1 / 100, 1 / 600]
    mean = (1 / 100 + 1 / 300 + 1 / 600) / 3
    assert class_weights("inverse", data, CPU).tolist() == pytest.approx([each / mean for each in inverse])
    log = [1 / math.log(1.02 + share) for share in (0.1, 0.3, 0.0, 0.6)]
    assert class_weights("log", data, CPU).tolist() == pytest.approx(log)
    assert log[2] == pytest.approx(50.498, abs=1e-3)
    # a void class of the model's, which no pixel has
    assert class_weights("log", data, CPU, void=True).tolist() == pytest.approx([*log, log[2]])


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ("median", "use inverse, log, null"),
        ([1.0, 1.0], "2 numbers for 4 classes"),
        ([1.0, -1.0, 1.0, 1.0], "0 or more"),
        ([1.0, math.nan, 1.0, 1.0], "0 or more"),
        ([1.0, math.inf, 1.0, 1.0], "0 or more"),
        ([0.0] * 4, "not all 0"),
        ([], "0 numbers for 4 classes"),
    ],
)
def test_bad_weights(given, part):
    with pytest.raises(ValueError, match=part):
        check_class_weights(given, 4)


def test_rules_need_counts(monkeypatch):
    with pytest.raises(TrainingError, match="give a weight for each"):
        class_weights("log", object(), CPU)
    monkeypatch.setattr(Counted, "pixels", (0, 0, 0, 0))
    with pytest.raises(TrainingError, match="check the masks"):
        class_weights("inverse", Counted(), CPU)
