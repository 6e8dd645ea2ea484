"""MLAttack against its literal definition, and the hooks and layers that it takes its features from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import PGD, AttackStep, MLAttack, NoiseSource, WorstOf
from robustseg.attacks.losses import features
from robustseg.attacks.losses.features import FeatureVictim
from tests.helpers.cases import partly
from tests.helpers.nets import CLASSES, tiny_batch, tiny_net

from . import reference
from .comparison import BALLS, STEPS, assert_allowed, close
from .defects import after, around, found_by, replaced
from .table import linf_or_untargeted

LAYERS = ("layers.1", "layers.4")
WEIGHTS = (30.0, 80.0)
"""Large enough for the features to decide signs."""


def feature(net: nn.Module, images: Tensor, layer: str) -> Tensor:
    """The output of one of TinyNet's layers, by running the layers before it."""
    x = (images - 0.45) / 0.25
    for module in net.layers[: int(layer.split(".")[1]) + 1]:
        x = module(x)
    return x


def literal_distance(values: Tensor, clean: Tensor, target: Tensor) -> Tensor:
    """Σ over valid positions and channels of (f − f₀)², over the same sum of f₀²; features at the image's size."""
    difference, energy = (values * 0).sum(), 0.0
    for i, j in reference.valid_pixels(target):
        for channel in range(len(values)):
            difference = difference + (values[channel, i, j] - float(clean[channel, i, j])) ** 2
            energy += float(clean[channel, i, j]) ** 2
    return difference / energy


def literal_loss(net: nn.Module, images: Tensor, targets: Tensor, clean: Tensor, targeted: bool) -> list[Tensor]:
    """mean CE ± Σ w_l·D_l of each image."""
    losses = []
    entropies = reference.mean_cross_entropy(net(images), targets, 1, 1, targeted)
    for b, entropy in enumerate(entropies):
        loss = entropy
        for layer, weight in zip(LAYERS, WEIGHTS, strict=True):
            before = feature(net, clean[b : b + 1], layer)[0].detach()
            distance = literal_distance(feature(net, images[b : b + 1], layer)[0], before, targets[b])
            loss = loss - weight * distance if targeted else loss + weight * distance
        losses.append(loss)
    return losses


def check(norm: str, targeted: bool) -> None:
    """Every iterate and loss of the attack is that of the literal loop from the same start."""
    eps, alpha = BALLS[norm]
    net, (images, targets) = tiny_net(), tiny_batch()
    labels = targets.masked_fill(targets == 255, reference.NO_LABEL)
    attack = MLAttack(
        layers=LAYERS, weights=WEIGHTS, eps=eps, step_size=alpha, steps=STEPS, norm=norm, targeted=targeted
    )
    seen: list[AttackStep] = []
    result = attack(net, images, targets, on_step=seen.append)
    assert not torch.equal(seen[0].images_adv, images)
    assert_allowed(seen[0].images_adv, images, eps, norm)
    expected = reference.literal_attack(
        lambda x: x,
        images,
        labels,
        seen[0].images_adv,
        loss=lambda x, y, *rest: literal_loss(net, x, y, images, targeted),
        eps=eps,
        alpha=alpha,
        steps=STEPS,
        norm=norm,
        targeted=targeted,
    )
    valid = torch.tensor([len(reference.valid_pixels(label)) for label in labels])
    assert len(seen) == STEPS
    for t, step in enumerate(seen):
        close(step.images_adv, expected.images_adv[t], f"iterate {t + 1}")
        close(step.loss / valid, expected.losses[t], f"loss {t + 1}")
    close(result, expected.images_adv[-1], "result")


@pytest.mark.parametrize(
    ("norm", "targeted"), partly(itertools.product(("linf", "l2"), (False, True)), linf_or_untargeted)
)
def test_whole_attack(norm: str, targeted: bool):
    check(norm, targeted)


def keep_the_sign_when_targeted(original: Callable, self: MLAttack, *args: object) -> Tensor:
    plain = super(MLAttack, self)._objective(*args)
    return plain + abs(original(self, *args) - plain)


def clean_features_of_the_start(original: Callable, self, victim, taps, weights, images: Tensor, targets: Tensor):
    """Distances from what the model sees first."""
    original(self, victim, taps, weights, (images + 0.01).clamp(0, 1), targets)


def first_layer_only(original: Callable, self: FeatureVictim) -> Tensor:
    self._places, self._differences = self._places[:1], self._differences[:1]
    return original(self)


BOTH_NORMS = ("linf", "l2")

test_defect_is_found = found_by(
    lambda norm, targeted=False: check(norm, targeted),
    {
        "no features": (replaced(FeatureVictim, "distance", lambda self: torch.zeros(())), *BOTH_NORMS),
        "towards the clean features": (after(FeatureVictim, "distance", torch.neg), *BOTH_NORMS),
        "features of the first layer only": (
            around(FeatureVictim, "distance", first_layer_only),
            *BOTH_NORMS,
        ),
        "count ignored positions": (replaced(features, "_valid_share", lambda values, targets: None), *BOTH_NORMS),
        "distance of the batch": (after(features, "_sum_of_squares", lambda s: s.sum().expand(2)), *BOTH_NORMS),
        "not relative": (
            around(features._Clean, "distance", lambda original, self, x: original(self, x) * self.energy),
            *BOTH_NORMS,
        ),
        # Sum of CE plus distance: the weights would depend on the size of the image.
        "unscaled features": (after(FeatureVictim, "distance", lambda distance: distance / 40), *BOTH_NORMS),
        "keep the sign when targeted": (
            around(MLAttack, "_objective", keep_the_sign_when_targeted),
            *(("linf", True), ("l2", True)),
        ),
        "clean features of the start": (
            around(FeatureVictim, "__init__", clean_features_of_the_start),
            *BOTH_NORMS,
        ),
    },
)


def test_closed_form():
    """A linear layer and one pixel: logits (0, w·x), features w·x, so that the loss is known exactly."""
    model = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.ConstantPad3d((0, 0, 0, 0, 1, 0), 0.0)).double()
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    model[0].weight.data = weight.view(1, 3, 1, 1)
    images = torch.full((1, 3, 1, 1), 0.25, dtype=torch.float64)
    images[0, 0] = 1.0
    seen: list[AttackStep] = []
    # 3/4 from (1, ¼, ¼): w·x = 1 − ½ + ⅛ = ⅝. The label 0 is left by going up, the first step from the clean image.
    attack = MLAttack(layers=["0"], weights=3.0, eps=0.125, step_size=0.0625, steps=2, random_start=False)
    result = attack(model, images, torch.zeros(1, 1, 1, dtype=torch.long), on_step=seen.append)
    clean, moved = 0.625, 0.625 + 0.0625 * 2.5  # the first channel is at 1 already
    assert seen[0].loss.item() == pytest.approx(math.log1p(math.exp(clean)), rel=1e-12)
    assert seen[1].loss.item() == pytest.approx(
        math.log1p(math.exp(moved)) + 3 * ((moved - clean) / clean) ** 2, rel=1e-12
    )
    assert result.flatten().tolist() == [1.0, 0.125, 0.375]


def test_weight_zero_is_pgd():
    net, (images, targets) = tiny_net(), tiny_batch()
    expected = PGD(eps=0.05, step_size=0.02, steps=4, restarts=2, keep="best")(net, images, targets)
    actual = MLAttack(layers=LAYERS, weights=0.0, eps=0.05, step_size=0.02, steps=4, restarts=2, keep="best")(
        net, images, targets
    )
    assert torch.equal(actual, expected)


def test_images_may_leave_and_are_watched_on_their_own():
    """Finished images leave the batch at step 10; the others' features are still compared with their own."""
    net, (images, targets) = tiny_net(), tiny_batch(batch=3)
    targets[1] = (net(images)[1].argmax(0) + 1) % CLASSES
    attack = MLAttack(layers=LAYERS, weights=WEIGHTS, eps=0.03, step_size=0.01, steps=14, keep="best")
    rows: list[int] = []
    noise = NoiseSource.for_samples(0, ["a", "b", "c"], torch.device("cpu"))
    together = attack.run(net, images, targets, generator=noise, on_step=lambda step: rows.append(len(step.rows)))
    assert rows[0] == 3
    assert rows[-1] < 3
    for row, sample in enumerate("abc"):
        noise = NoiseSource.for_samples(0, [sample], torch.device("cpu"))
        alone = attack.run(net, images[row : row + 1], targets[row : row + 1], generator=noise)
        torch.testing.assert_close(alone.images_adv[0], together.images_adv[row], rtol=0, atol=1e-9)
        assert alone.forwards[0] == together.forwards[row]


def test_member_of_an_ensemble():
    net, (images, targets) = tiny_net(), tiny_batch()
    attack = WorstOf(
        [
            PGD(eps=0.05, step_size=0.02, steps=2),
            MLAttack(layers=LAYERS, weights=5.0, eps=0.05, step_size=0.02, steps=2),
        ]
    )
    assert attack(net, images, targets).shape == images.shape
