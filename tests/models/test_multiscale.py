"""Multi-scale inference against a reference written out, as a target and as what is attacked."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from robustseg.attacks import PGD
from robustseg.models import ExternalNetwork, ModelError, MultiScale, Network, SegmentationModel, SlidingWindow


class Small(Network):
    def __init__(self, num_classes: int = 4) -> None:
        super().__init__(num_classes)
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(6, num_classes, 1))

    def forward(self, x):
        return self.layers(x)


def build(**arguments):
    torch.manual_seed(0)
    return SegmentationModel(Small(), **arguments).eval()


def bilinear(maps, size):
    """Half-pixel bilinear resizing without antialiasing, pixel by pixel."""
    height, width = maps.shape[-2:]

    def samples(count, length):
        for place in range(count):
            centre = min(max((place + 0.5) * length / count - 0.5, 0.0), length - 1.0)
            low = math.floor(centre)
            yield low, min(low + 1, length - 1), centre - low

    rows = []
    for top, bottom, down in samples(size[0], height):
        row = []
        for left, right, along in samples(size[1], width):
            upper = (1 - along) * maps[..., top, left] + along * maps[..., top, right]
            lower = (1 - along) * maps[..., bottom, left] + along * maps[..., bottom, right]
            row.append((1 - down) * upper + down * lower)
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


def reference(model, images, scales, flip):
    height, width = images.shape[-2:]
    answers = []
    for scale in scales:
        size = (round(height * scale), round(width * scale))
        small = bilinear(images, size)
        answers.append(bilinear(model(small), (height, width)))
        if flip:
            mirrored = torch.stack([small[..., width - 1] for width in range(size[1], 0, -1)], -1)
            answer = model(mirrored)
            answer = torch.stack([answer[..., width - 1] for width in range(size[1], 0, -1)], -1)
            answers.append(bilinear(answer, (height, width)))
    return torch.stack(answers).mean(0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [(0.5, 0.75, 1.0), (0.5,), (1.0,), (1.25, 0.3)])
@pytest.mark.parametrize("size", [(12, 16), (11, 13)])
def test_logits_and_gradients_equal_the_reference(size, scales, flip):
    model = build().double()
    images = torch.rand(2, 3, *size, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 4, *size, dtype=torch.float64)
    logits, expected = MultiScale(model, scales, flip)(images), reference(model, images, scales, flip)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad((answer * upstream).sum(), images)[0] for answer in (logits, expected))
    )


def test_gradient_matches_finite_differences():
    images = torch.rand(1, 3, 6, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(MultiScale(build().double(), flip=True), (images,))


def test_full_scale_alone_is_the_model_bit_for_bit():
    model, images = build(), torch.rand(2, 3, 11, 13)
    assert torch.equal(MultiScale(model, [1.0])(images), model(images))


def test_half_scale_is_the_mean_of_four_pixels():
    """A pointwise network on a row of 2×2 blocks with the means 0, 1: upsampled, a quarter between the centres."""
    identity = nn.Conv2d(3, 3, 1)
    nn.init.dirac_(identity.weight)
    nn.init.zeros_(identity.bias)
    model = SegmentationModel(ExternalNetwork(identity, 3), (0.0,) * 3, (1.0,) * 3)
    block = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    noise = torch.tensor([[0.3, -0.3, 0.2, -0.1], [-0.2, 0.2, -0.4, 0.3]])
    images = (block + noise).expand(1, 3, 2, 4)
    expected = torch.tensor([0.0, 0.25, 0.75, 1.0]).expand(2, 4)
    torch.testing.assert_close(MultiScale(model, [0.5])(images)[0, 0], expected)


def test_flipping_makes_the_answer_symmetric():
    images = torch.rand(1, 3, 12, 16)
    mirrored = MultiScale(build(), flip=True)(images.flip(-1)).flip(-1)
    torch.testing.assert_close(mirrored, MultiScale(build(), flip=True)(images))
    plain = MultiScale(build())
    assert not torch.allclose(plain(images.flip(-1)).flip(-1), plain(images), atol=1e-3)


def test_a_constant_network_stays_constant():
    class Constant(Network):
        def forward(self, x):
            return torch.tensor([1.0, -2.0]).view(1, 2, 1, 1).expand(len(x), 2, 3, 3)

    logits = MultiScale(SegmentationModel(Constant(2)), flip=True)(torch.rand(2, 3, 9, 9))
    torch.testing.assert_close(logits, torch.tensor([1.0, -2.0]).view(1, 2, 1, 1).expand(2, 2, 9, 9))


@pytest.mark.slow
def test_it_is_attacked_as_a_whole_and_scored_as_a_target():
    model, images = build(), torch.rand(2, 3, 12, 16)
    averaged = MultiScale(model, flip=True).eval()
    targets = averaged(images).argmax(1)
    attack = PGD(steps=5, eps="8/255", random_start=False)
    result = attack.run(averaged, images, targets)
    by_hand = attack.run(lambda x: reference(model, x, (0.5, 0.75, 1.0), True), images, targets)
    assert (result.images_adv != by_hand.images_adv).float().mean() < 5e-3
    assert result.forwards.tolist() == by_hand.forwards.tolist()
    assert result.backwards.tolist() == [5, 5]
    assert result.images_adv.sub(images).abs().max() <= 8 / 255
    of_the_model = attack(model, images, targets)
    own, other = ((averaged(x).argmax(1) != targets).float().mean() for x in (result.images_adv, of_the_model))
    assert own > other > 0


def test_the_model_keeps_its_window_at_each_scale():
    images, window = torch.rand(1, 3, 16, 20), SlidingWindow((9, 9), (7, 7))
    windowed = build(window=window)
    torch.testing.assert_close(
        MultiScale(windowed, [0.5, 1.0])(images), reference(windowed, images, [0.5, 1.0], False), rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(MultiScale(windowed, [1.0])(images), MultiScale(build(), [1.0])(images))


def test_images_do_not_influence_one_another():
    model, images = MultiScale(build(), flip=True), torch.rand(3, 3, 12, 16)
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=1e-5, atol=1e-6)


def test_it_is_a_module_of_the_model_it_wraps():
    model = MultiScale(build().train())
    assert model.num_classes == 4
    assert not model.eval().model.training
    with pytest.raises(ModelError, match="Conv2d has no num_classes: wrap it"):
        _ = MultiScale(nn.Conv2d(3, 4, 1)).num_classes


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        ([], ["scales = []", "at least one"]),
        ([0.5, 0.0], ["scales = [0.5, 0.0]", "0.0 is no factor"]),
        ([-1.0], ["scales = [-1.0]", "positive"]),
        ([1.0, float("nan")], ["nan is no factor"]),
        ([float("inf")], ["inf is no factor"]),
    ],
)
def test_scales_that_cannot_be_are_refused(scales, words):
    with pytest.raises(ModelError) as caught:
        MultiScale(build(), scales)
    for word in words:
        assert word in str(caught.value)


def test_images_too_small_for_a_scale_are_refused_before_the_model_runs():
    class Never(Network):
        def forward(self, x):
            raise AssertionError("ran")

    model = MultiScale(SegmentationModel(Never(2)), [1.0, 0.1])
    with pytest.raises(ModelError, match=r"4×40 pixels have none left at 0\.1"):
        model(torch.rand(1, 3, 4, 40))
    with pytest.raises(ModelError, match="B×3×H×W"):
        MultiScale(model.model, [0.5])(torch.rand(3, 8, 8))
