from __future__ import annotations

import pytest
import torch

from robustseg.attacks import PGD, NoiseSource
from robustseg.models import SegmentationModel
from robustseg.training import AdversarialSplit, TrainingError
from tests.helpers.nets import ToyNetwork, toy_batch


@pytest.mark.parametrize(
    ("fraction", "batch_size", "expected"),
    [
        (0.5, 8, (4, 4)),
        (0.5, 3, (1, 2)),
        (0.25, 8, (6, 2)),
        (0.0, 5, (5, 0)),
        (1.0, 5, (0, 5)),
        (0.01, 4, (3, 1)),
        (0.99, 4, (1, 3)),
        (0.0, 1, (1, 0)),
        (1.0, 1, (0, 1)),
    ],
)
def test_sizes(fraction, batch_size, expected):
    assert AdversarialSplit(fraction).sizes(batch_size) == expected


def test_a_batch_of_one_cannot_be_split():
    with pytest.raises(TrainingError, match=r"data\.batch_size.*adversarial_fraction"):
        AdversarialSplit(0.5).sizes(1)


def test_the_remedy_is_a_setting_that_has_an_effect():
    """With a global batch size data.batch_size has none."""
    with pytest.raises(TrainingError) as caught:
        AdversarialSplit(0.5).sizes(1, global_batch_size=4)
    message = str(caught.value)
    assert "the share of data.global_batch_size = 4" in message
    assert "lower trainer.accumulate_grad_batches or trainer.devices" in message
    assert "data.batch_size" not in message


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_fraction_is_a_share(fraction):
    with pytest.raises(ValueError, match="adversarial_fraction"):
        AdversarialSplit(fraction)


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="attack_mode"):
        AdversarialSplit(0.5, "frozen")


def test_only_the_adversarial_part_is_attacked():
    batch, model = toy_batch(5), SegmentationModel(ToyNetwork())
    seen = []

    def attack(model, images, targets, *, generator, mode, search):
        seen.append((images, targets))
        return images * 0

    mixed = AdversarialSplit(0.4)(model, attack, batch, NoiseSource.for_samples(0, batch.ids, torch.device("cpu")))
    assert mixed.clean == 3
    assert torch.equal(mixed.images[:3], batch.images[:3])
    assert not mixed.images[3:].any()
    assert len(seen) == 1
    assert torch.equal(seen[0][0], batch.images[3:])
    assert torch.equal(seen[0][1], batch.targets[3:])
    assert torch.equal(mixed.targets, batch.targets)
    assert mixed.ids == batch.ids


def test_fraction_zero_never_calls_the_attack():
    batch = toy_batch(3)
    mixed = AdversarialSplit(0.0)(SegmentationModel(ToyNetwork()), None, batch, None)
    assert mixed.clean == 3
    assert torch.equal(mixed.images, batch.images)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_attack_leaves_batchnorm_and_flags_alone(mode):
    batch, model = toy_batch(4), SegmentationModel(ToyNetwork()).train()
    model.network.backbone[1].eval()  # a frozen BatchNorm must stay frozen
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    noise = NoiseSource.for_samples(0, batch.ids[2:], torch.device("cpu"))
    AdversarialSplit(0.5, mode)(model, PGD(steps=2), batch, noise)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_train_mode_attacks_with_batch_statistics():
    batch, model = toy_batch(4), SegmentationModel(ToyNetwork()).train()
    noise = [NoiseSource.for_samples(0, batch.ids[2:], torch.device("cpu")) for _ in range(2)]
    in_eval = AdversarialSplit(0.5, "eval")(model, PGD(steps=3), batch, noise[0])
    in_train = AdversarialSplit(0.5, "train")(model, PGD(steps=3), batch, noise[1])
    assert not torch.equal(in_eval.images, in_train.images)
