"""ThroughBlur: the attack on the blurred model, and what it gains over the plain attack."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustseg.attacks import BIM
from robustseg.detectors import GaussianBlur, ThroughBlur
from tests.attacks.comparison import assert_allowed
from tests.attacks.table import LOOPS, ROWS, build
from tests.detectors.nets import (
    NearAndFar,
    literal_cross_entropy,
    noise_of,
    noisy_images_and_targets,
    summed_cross_entropy,
)
from tests.helpers.cases import partly
from tests.helpers.nets import tiny_batch, tiny_net


@pytest.mark.parametrize(
    "name", partly([name for name in ROWS if name not in ("Targeted", "Universal")], LOOPS.__contains__)
)
def test_through_blur_is_the_attack_on_the_blurred_model(name):
    """Attacks that read layers included; what is returned is the image before the blur."""
    model, (images, targets) = tiny_net(), tiny_batch()

    class Blurred(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, seen):
            return model(GaussianBlur(0.3)(seen))

    expected = build(name, 0.05)(Blurred(), images, targets, generator=noise_of("ab"))
    found = ThroughBlur(build(name, 0.05), 0.3)(model, images, targets, generator=noise_of("ab"))
    assert torch.equal(found, expected)
    if name not in ("Square", "Square accuracy"):
        assert not torch.equal(found, build(name, 0.05)(model, images, targets, generator=noise_of("ab")))


def test_gradient_through_the_blur_and_without_it():
    model, (images, targets) = tiny_net(), tiny_batch()
    steps = []
    attack = ThroughBlur(BIM(eps=2, step_size=0.5, steps=1, norm="l2"), 0.6, whole=True)
    found = attack(model, images, targets, on_step=steps.append)
    for row in range(2):
        point = images[row].clone().requires_grad_()
        loss = literal_cross_entropy(model(point[None])[0], targets[row])[0]
        loss = loss + literal_cross_entropy(model(GaussianBlur(0.6)(point[None]))[0], targets[row])[0]
        assert float(steps[0].loss[row]) == pytest.approx(float(loss.detach()), rel=1e-9)
        (grad,) = torch.autograd.grad(loss, point)
        torch.testing.assert_close(found[row], (images[row] + 0.5 * grad / grad.norm()).clamp(0, 1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("target", [0, 1, "random"])
def test_each_attack_is_the_best_one_at_what_it_is_shown(seed, target):
    """The blurred image, the image, or both: the loss of an affine model is convex, and descent finds its minimum."""
    model, blur = NearAndFar().double(), GaussianBlur(1.2)
    images, wanted = noisy_images_and_targets(seed, target)
    inner = BIM(eps=0.06, step_size=0.01, steps=20, norm="rms", targeted=True)
    losses = {"plain": {}, "blurred": {}, "both": {}}
    for name, attack in {
        "plain": inner,
        "blurred": ThroughBlur(inner, 1.2),
        "both": ThroughBlur(inner, 1.2, whole=True),
    }.items():
        images_adv = attack(model, images, wanted, generator=noise_of("ab"))
        assert_allowed(images_adv, images, 0.06, "rms")
        plain = summed_cross_entropy(model, images_adv, wanted)
        blurred = summed_cross_entropy(model, blur(images_adv), wanted)
        for what, loss in (("plain", plain), ("blurred", blurred), ("both", plain + blurred)):
            losses[what][name] = loss
    for what, found in losses.items():
        lowest = found.pop(what)
        for name, other in found.items():
            assert bool((lowest < other).all()), f"{what}: {lowest}, and the attack {name} has {other}"
