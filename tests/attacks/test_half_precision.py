"""Gradients of models in half precision: the attack's are those of float32, whatever autocast does."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import (
    FGSM,
    PGD,
    Attack,
    CrossEntropy,
    NoGradientError,
    Search,
    UniversalPerturbation,
    Victim,
    attack_mode,
)
from robustseg.attacks import precision as precision_module
from robustseg.attacks import victim as victim_module
from robustseg.attacks.gradients import input_gradient
from robustseg.attacks.losses.base import IGNORED
from robustseg.attacks.scaling import Scaling, leaf
from robustseg.detectors import OnPatches, ThroughBlur
from robustseg.models import SegmentationModel
from robustseg.models.networks import PSPNet
from tests.attacks.table import LOOPS, ROWS, build
from tests.helpers.nets import tiny_batch, tiny_net

SIDE = 280
"""Side of an image whose 78 400 pixels together leave float16's range of 65504."""


class Pooled(nn.Module):
    """A model whose logits are those of the mean colour, at every pixel, as those of PSPNet's coarsest bin."""

    def __init__(self, gain: float = 1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.classify = nn.Conv2d(3, 4, 1)
        self.classify.weight.data = gain * torch.randn(4, 3, 1, 1, generator=generator)
        self.classify.bias.data.zero_()
        self.layers = nn.ModuleDict({"1": nn.Identity(), "2": nn.Identity()})

    def forward(self, images: Tensor) -> Tensor:
        scores = self.layers["1"](self.classify(self.layers["2"](images).mean((2, 3), keepdim=True)))
        return scores.expand(-1, -1, *images.shape[-2:]) + 0 * images[:, :1]


def coherent() -> tuple[nn.Module, Tensor, Tensor]:
    """A model, an image and targets that are wrong everywhere, so that the gradients of all pixels point one way."""
    model = Pooled(gain=20)
    images = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    return model, images, model(images).argmin(1)


def wrapped(name: str) -> Attack:
    attacks = {
        "through a blur": lambda: ThroughBlur(PGD(steps=2), sigma=1.0, whole=True),
        "on patches": lambda: OnPatches(PGD(steps=2), patch_size=SIDE - 8, k=1),
    }
    return attacks[name]() if name in attacks else build(name)


@pytest.mark.parametrize("name", [*LOOPS, "through a blur", "on patches"])
def test_no_attack_overflows_in_a_large_image(name):
    model, images, targets = coherent()
    if name in ("DeepFool", "DAG", "worst of"):  # they follow the pixels that are still correct
        targets = model(images).argmax(1)
    with torch.autocast("cpu", torch.float16):
        result = wrapped(name).run(model, images, targets)
    assert result.images_adv.isfinite().all()
    if name not in ("Universal", "Square"):
        assert result.backwards.sum() > 0


@pytest.mark.parametrize("name", ["PGD", "worst of", "MLAttack", "on patches"])
def test_no_search_in_float16_overflows(name, monkeypatch):
    """The first forward of an ensemble is a verdict in float32."""
    monkeypatch.setattr(precision_module, "_supported", lambda dtype, device: True)
    model, images, targets = coherent()
    targets[:, 0] = model(images).argmax(1)[:, 0]  # otherwise there is nothing left to search for
    result = wrapped(name).run(model, images, targets, search=Search("fp16"))
    assert result.backwards.sum() > 0


def test_a_model_with_an_autocast_of_its_own_does_not_overflow_behind_two_blurs():
    class Own(nn.Module):
        def __init__(self, model: nn.Module):
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.float16):
                return self.model(images).float()

    model, images, targets = coherent()
    attack = ThroughBlur(ThroughBlur(build("MLAttack"), sigma=1.0), sigma=1.0)
    assert attack.run(Own(model), images, targets).backwards.sum() > 0


def test_no_universal_perturbation_overflows_in_a_large_image():
    model, images, targets = coherent()
    with torch.autocast("cpu", torch.float16):
        fitted = UniversalPerturbation(epochs=1).fit(model, [(images, targets)])
    assert fitted.delta.isfinite().all()
    assert fitted.delta.abs().max() > 0


def narrow(model: nn.Module, kind: str):
    """The model in float16, in one of the ways in which users have it."""
    half = copy.deepcopy(model).half()
    ways = {
        "float16 weights": lambda images: half(images.half()),
        "float16 weights, float32 logits": lambda images: half(images.half()).float(),
        "its own autocast": lambda images: torch.autocast("cpu", torch.float16)(model)(images),
        "its own autocast, float32 logits": lambda images: torch.autocast("cpu", torch.float16)(model)(images).float(),
        "autocast outside": model,
    }
    return ways[kind]


def cosine(first: Tensor, second: Tensor) -> float:
    """The smallest cosine of two images' values; torch's own takes lengths below 1e-8 for 1e-8."""
    first, second = (nn.functional.normalize(each.double().flatten(1), eps=1e-300) for each in (first, second))
    return float((first * second).sum(1).min())


def gradient(model, images: Tensor, targets: Tensor, factor: float = 1.0) -> Tensor:
    with attack_mode(model) as attacked:
        point = leaf(images)
        logits = Victim(attacked, len(images), dtype=images.dtype)(point)
        return input_gradient(factor * CrossEntropy()(logits, targets, 0.0).sum(), point)


KINDS = [
    *("float16 weights", "float16 weights, float32 logits", "its own autocast", "its own autocast, float32 logits"),
    "autocast outside",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [1e-12, 1.0, 1e9])
def test_gradient_in_float16_is_that_in_float32_for_any_size_of_the_loss(kind, factor):
    images, targets = tiny_batch(torch.float32, ignore_index=IGNORED)
    net = tiny_net(torch.float32)
    exact = gradient(net, images, targets, factor)
    with torch.autocast("cpu", torch.float16, enabled=kind == "autocast outside"):
        found = gradient(narrow(net, kind), images, targets, factor)
    assert found.dtype == torch.float32
    assert torch.isclose(found.norm(), exact.norm(), rtol=0.02)
    assert cosine(found, exact) > 0.999


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e3])
def test_gradient_of_float16_images_is_in_float32(factor):
    images, targets = tiny_batch(torch.float16, ignore_index=IGNORED)
    net = tiny_net(torch.float32)
    exact = gradient(net, images.float(), targets, factor)
    found = gradient(copy.deepcopy(net).half(), images, targets, factor)
    assert cosine(found, exact) > 0.999
    assert torch.isclose(found.norm(), exact.norm(), rtol=0.02)


def test_an_image_that_the_model_is_sure_of_keeps_its_gradient_beside_one_that_it_is_not():
    """In float16 the least number is 6e-8: a gradient of 1e-9 beside one of 1 would be zero."""
    net = tiny_net(torch.float32)
    images, targets = tiny_batch(torch.float32, ignore_index=IGNORED)

    class Sure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            targeted = nn.functional.one_hot(targets.clamp_min(0), 4).permute(0, 3, 1, 2)
            return net(x).float() + torch.tensor([30.0, 0.0]).view(-1, 1, 1, 1) * targeted

    exact = gradient(Sure(), images, targets)
    assert 0 < exact[0].abs().max() < 1e-6 * exact[1].abs().max()
    with torch.autocast("cpu", torch.float16):
        found = gradient(Sure(), images, targets)
    assert cosine(found, exact) > 0.999


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_scaling_changes_no_bit_in_float32(mode, monkeypatch):
    """Also in train mode, where images influence one another through the batch's statistics."""
    images, targets = tiny_batch(torch.float32)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
    attack = PGD(steps=3, step_size=0.02, norm="l2")
    plain = attack(net, images, targets, mode=mode)
    calls: list[Scaling] = []
    leaving = Scaling.leaving
    monkeypatch.setattr(Scaling, "leaving", lambda self, outputs: calls.append(self) or leaving(self, outputs))
    monkeypatch.setattr(victim_module, "in_float16", lambda tensor: True)
    assert torch.equal(attack(net, images, targets, mode=mode), plain)
    assert len(calls) == 3
    powers = torch.stack([call._power for call in calls])
    assert torch.equal(powers.log2(), powers.log2().round())
    assert (powers != 1).any()


def test_scaling_is_off_in_float32(monkeypatch):
    monkeypatch.setattr(Scaling, "leaving", lambda self, outputs: pytest.fail("scaled"))
    PGD(steps=2)(tiny_net(torch.float32), *tiny_batch(torch.float32))


def test_features_and_logits_share_their_scaling():
    """MLAttack's gradient enters the model at its layers as well; either part alone could decide the step."""
    images, targets = tiny_batch(torch.float32)
    net = tiny_net(torch.float32)
    for weight in (0.0, 20.0):
        attack = ROWS["MLAttack"].build(eps=0.05, norm="l2").with_loop(steps=1)
        attack.weights = (weight, weight)
        exact = attack(net, images, targets) - images
        with torch.autocast("cpu", torch.float16):
            found = attack(net, images, targets) - images
        assert cosine(found, exact) > 0.999


def test_a_loss_may_change_its_logits_in_place():
    class InPlace(CrossEntropy):
        def per_pixel(self, logits, targets, progress, targeted):
            return super().per_pixel(logits.mul_(0.5), targets, progress, targeted)

    images, targets = tiny_batch(torch.float32)
    attack = PGD(steps=1).with_loop(loss=InPlace())
    with torch.autocast("cpu", torch.float16):
        assert attack(tiny_net(torch.float32), images, targets).isfinite().all()


def test_a_loss_without_a_gradient_is_named_in_float16_too():
    class Constant(CrossEntropy):
        def per_pixel(self, logits, targets, progress, targeted):
            return 0.0 * targets.float()

    images, targets = tiny_batch(torch.float32)
    with torch.autocast("cpu", torch.float16), pytest.raises(NoGradientError):
        FGSM().with_loop(loss=Constant())(tiny_net(torch.float32), images, targets)


def test_powers_of_gradients_that_are_zero_or_not_finite_are_finite():
    scaling = Scaling()
    logits = torch.zeros(4, 2, 3, 3, requires_grad=True)
    (out,) = scaling.leaving([logits])
    rows = torch.tensor([0.0, math.inf, math.nan, 3.0]).view(4, 1, 1, 1).expand_as(logits)
    (grad,) = torch.autograd.grad(out, logits, rows)
    assert scaling._power.isfinite().all()
    # A norm of 3·√18 = 12.7 is divided by 8.
    assert scaling._power[3] == 8
    assert torch.equal(grad[3], rows[3] / 8)
    assert torch.equal(grad[0], rows[0])
    assert not grad[1:3].isfinite().any()


@pytest.mark.slow
def test_pyramid_pooling_does_not_overflow_on_an_image_that_is_wrong_everywhere():
    """The coarsest bin sums the gradient of all cells; PSPNet at 720×960 as trained, or smaller with larger weights."""
    torch.manual_seed(0)
    small = {"backbone": "resnet10t", "channels": 16, "backbone_args": {"channels": [8, 16, 24, 32]}}
    network = PSPNet(12, pretrained=False, **small)
    with torch.no_grad():
        network.head.classifier[-1].weight.mul_(300)
    model = SegmentationModel(network).eval()
    images = torch.rand(1, 3, 192, 256)
    targets = torch.zeros(1, 192, 256, dtype=torch.long)
    exact = gradient(model, images, targets)
    with torch.autocast("cpu", torch.float16):
        found = gradient(model, images, targets)
    assert cosine(found, exact) > 0.99
