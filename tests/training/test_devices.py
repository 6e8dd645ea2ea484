"""What training, evaluations and detectors do on a device: nothing lies elsewhere, and the host waits where it must."""

import pytest
import torch

from robustseg.attacks import PGD, CosPGD, SegPGD, Strip, Targeted, attack_mode
from robustseg.detectors import OnPatches, ScaleConsistency, SpatialConsistency, ThroughBlur
from robustseg.evaluation import Evaluator, MemorySink
from robustseg.evaluation.attack_stage import AttackStage
from robustseg.evaluation.attacking import predict
from robustseg.evaluation.trace import Traced
from robustseg.training import RobustSegmentation
from robustseg.types import Batch
from tests.helpers.emulated import CPU, DEVICE, Emulation, OnDevice, put, to_device
from tests.helpers.nets import ToyNetwork, tiny_batch, tiny_net

IDS = ["a", "b", "c", "d"]


class Module(RobustSegmentation):
    """The training module without a trainer."""

    global_step = 0

    @property
    def device(self):
        return next(self.parameters()).device

    def log(self, *args, **kwargs):
        """Log nothing."""


def batch(dtype=torch.float32):
    images, targets = tiny_batch(dtype, batch=4)
    return Batch(to_device(images), to_device(targets), IDS)


def module(**settings):
    torch.manual_seed(0)
    return Module(ToyNetwork(4, aux=True), SegPGD(steps=3), **settings)


@pytest.mark.parametrize(
    "settings",
    [{}, {"attack_mode": "train"}, {"on_non_finite_loss": "skip"}, {"loss_combination": "mean_over_all"}],
    ids=str,
)
def test_an_update(settings):
    plain, placed = module(**settings), put(module(**settings))
    with Emulation() as emulation:
        placed.training_step(batch(), 0).backward()
    images, targets = tiny_batch(torch.float32, batch=4)
    plain.training_step(Batch(images, targets, IDS), 0).backward()
    for expected, found in zip(plain.parameters(), placed.parameters(), strict=True):
        torch.testing.assert_close(found.grad.values, expected.grad)
    # Those of the attack, one more where batch statistics change, and the look at the loss.
    assert len(emulation.waits) <= (5 if "attack_mode" in settings else 4), emulation.waits


def test_a_validation_step():
    placed = put(module()).eval()
    with Emulation() as emulation:
        placed.validation_step(batch(), 0)
        assert len(emulation.waits) <= 1, emulation.waits
        scores = placed.scores.compute()
    plain = module().eval()
    images, targets = tiny_batch(torch.float32, batch=4)
    plain.validation_step(Batch(images, targets, IDS), 0)
    assert float(scores["miou"]) == float(plain.scores.compute()["miou"])


def test_a_prediction_waits_for_its_check_and_for_the_buffers():
    net, given = put(tiny_net(torch.float32)), batch()
    with Emulation() as emulation:
        assert isinstance(predict(net, given.images, given.targets), OnDevice)
    assert len(emulation.waits) <= 2, emulation.waits


@pytest.mark.parametrize("name", ["pgd", "targeted", "traced", "patches", "redrawn patches", "blur", "both"])
def test_an_evaluation(name):
    inner = PGD(steps=2)
    attack = {
        "pgd": CosPGD(steps=2, keep="best"),
        "targeted": Targeted(PGD(steps=2, targeted=True), Strip([0, 1])),
        "traced": Traced(inner),
        "patches": OnPatches(inner, 3, 3, patches_per_forward=4),
        "redrawn patches": OnPatches(inner, 3, 2, redraw=True),
        "blur": ThroughBlur(inner, 0.5),
        "both": ThroughBlur(inner, 0.5, whole=True),
    }[name]
    sink = MemorySink()
    evaluator = Evaluator({name: attack}, 4, sink)
    sink.device = DEVICE
    for metric in (*sink._scores.values(), *sink._attacks.values()):
        put(metric)
    net, given = put(tiny_net(torch.float32)), batch()
    with Emulation() as emulation:
        evaluator.update(net, given.ids, given.images, given.targets, AttackStage({name: attack}))
    # Images 1; clean 3: two for the prediction, one for the confusion matrix; the attack at most 5; its scores 4.
    assert len(emulation.waits) <= 13, emulation.waits
    assert int(sink._scores[name].images.values) == 4


@pytest.mark.parametrize("detector", [SpatialConsistency(3, 2, (1, 2)), ScaleConsistency(0.5)], ids=repr)
def test_detectors(detector):
    net, given = put(tiny_net(torch.float32)), batch()
    with Emulation() as emulation:
        found = detector.scores(net, given.images, IDS)
    assert found.device == CPU
    images, _ = tiny_batch(torch.float32, batch=4)
    torch.testing.assert_close(found, detector.scores(tiny_net(torch.float32), images, IDS))
    assert len(emulation.waits) <= 6, emulation.waits


def test_what_lies_elsewhere_in_a_model_would_be_noticed():
    net, given = tiny_net(torch.float32), batch()
    with Emulation(), attack_mode(net) as attacked, pytest.raises(RuntimeError, match="a tensor lies elsewhere"):
        attacked(given.images)
    with Emulation(), pytest.raises(RuntimeError, match="a tensor lies elsewhere"):
        PGD(steps=1)(net, given.images, given.targets)
