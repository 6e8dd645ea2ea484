"""Sliding-window inference against a reference written out, and as part of the model that is attacked."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from robustseg.attacks import PGD, AttackError, SegPGD
from robustseg.models import FCN, ExternalNetwork, ModelError, Network, SegmentationModel, SlidingWindow


class Small(Network):
    """Half the resolution, a field of view of 7 pixels and BatchNorm: windows differ from the whole image."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__(num_classes)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1),
            nn.BatchNorm2d(6),
            nn.Tanh(),
            nn.Conv2d(6, num_classes, 3, padding=1),
        )

    def forward(self, x):
        return self.layers(x)


def build(window=None, randomise=lambda model: model):
    torch.manual_seed(0)
    return randomise(SegmentationModel(Small(), window=window)).eval()


def attack_data(size=(17, 23), count=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, *size, generator=generator, dtype=dtype)
    targets = torch.randint(0, 4, (count, *size), generator=generator)
    targets[:, 0] = 255
    return images, targets


def windows_of(length, side, step):
    """(start, end) pairs: advance by ``step`` until the border is reached, and move the last one inwards."""
    if length <= side:
        return [(0, length)]
    pairs, start = [], 0
    while start + side < length:
        pairs.append((start, start + side))
        start += step
    pairs.append((length - side, length))
    return pairs


def reference(model, images, size, stride):
    """Pixel by pixel: the mean of the whole-image forward over all windows that cover the pixel."""
    height, width = images.shape[-2:]
    answers = []
    for top, bottom in windows_of(height, size[0], stride[0]):
        for left, right in windows_of(width, size[1], stride[1]):
            answers.append(((top, bottom, left, right), model(images[:, :, top:bottom, left:right])))
    rows = []
    for y in range(height):
        row = []
        for x in range(width):
            here = [
                answer[:, :, y - top, x - left]
                for (top, bottom, left, right), answer in answers
                if top <= y < bottom and left <= x < right
            ]
            row.append(torch.stack(here).sum(0) / len(here))
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


CASES = [
    ((17, 23), (8, 9), None),
    ((17, 23), (8, 9), (3, 4)),
    ((17, 23), (8, 9), (8, 9)),
    ((17, 23), (8, 40), (5, 5)),
    ((17, 23), (16, 22), (1, 1)),
    ((9, 31), (9, 10), (9, 7)),
    ((16, 24), (8, 8), (4, 4)),
]


@pytest.mark.parametrize(
    ("image", "size", "stride", "chunk"),
    [*((*case, 3) for case in CASES), (*CASES[1], 1), (*CASES[1], 100)],
)
def test_logits_and_gradients_equal_the_reference(image, size, stride, chunk, randomise):
    plain = build(randomise=randomise).double()
    model = copy.deepcopy(plain)
    model.window = SlidingWindow(size, stride, chunk)
    images = attack_data(image, dtype=torch.float64)[0].requires_grad_()
    upstream = torch.randn(2, 4, *image, dtype=torch.float64)
    advance = stride or tuple(-(-2 * side // 3) for side in size)
    expected, logits = reference(plain, images, size, advance), model(images)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(
        torch.autograd.grad((logits * upstream).sum(), [images, *model.parameters()]),
        torch.autograd.grad((expected * upstream).sum(), [images, *plain.parameters()]),
    )
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_windows_cover_every_pixel_and_stay_inside(data):
    sides = st.integers(1, 40)
    height, width, size = data.draw(sides), data.draw(sides), data.draw(st.tuples(sides, sides))
    stride = data.draw(st.none() | st.tuples(st.integers(1, size[0]), st.integers(1, size[1])))
    window = SlidingWindow(size, stride)
    places = window.places(height, width)
    covered = torch.zeros(height, width, dtype=torch.long)
    for rows, columns in places:
        assert 0 <= rows.start < rows.stop <= height
        assert 0 <= columns.start < columns.stop <= width
        assert (rows.stop - rows.start, columns.stop - columns.start) == (min(size[0], height), min(size[1], width))
        covered[rows, columns] += 1
    assert covered.min() >= 1
    assert len(set(map(str, places))) == len(places)
    assert (len(places) == 1) == window.covers(height, width)


def test_default_stride_and_description():
    window = SlidingWindow((713, 769))
    assert window.advance == (476, 513)
    assert window.describe() == {"size": [713, 769], "stride": [476, 513], "chunk": 1}
    assert SlidingWindow((6, 9)).advance == (4, 6)
    assert SlidingWindow((1, 1)).advance == (1, 1)
    # the usual setting for Cityscapes: 2 rows of 4 windows
    assert len(SlidingWindow((769, 769), (513, 513)).places(1024, 2048)) == 8


def test_a_pointwise_network_does_not_notice_windows():
    conv = nn.Conv2d(3, 5, 1)
    images = torch.rand(2, 3, 19, 21, dtype=torch.float64)
    plain = SegmentationModel(ExternalNetwork(conv, 5)).double().eval()
    model = SegmentationModel(ExternalNetwork(conv, 5), window=SlidingWindow((7, 6), (2, 5))).double().eval()
    torch.testing.assert_close(model(images), plain(images), rtol=1e-13, atol=1e-13)


def test_a_network_that_knows_its_window_gives_the_mean_over_windows():
    """The answer is the mean of the window: on the row 0, 1, 2 … 5 windows of 4 at 0 and 2 say 1.5 and 3.5."""

    class Mean(Network):
        def forward(self, x):
            return x.mean((1, 2, 3), keepdim=True).expand(-1, 2, 1, 1)

    images = torch.arange(6.0).expand(1, 3, 1, 6) / 5
    model = SegmentationModel(Mean(2), (0.0,) * 3, (1.0,) * 3, SlidingWindow((1, 4), (1, 2))).eval()
    expected = torch.tensor([1.5, 1.5, 2.5, 2.5, 3.5, 3.5]) / 5
    torch.testing.assert_close(model(images)[0, 0, 0], expected)


@pytest.mark.parametrize("size", [(17, 23), (18, 23), (40, 40)])
def test_a_window_as_large_as_the_image_is_the_plain_forward_bit_for_bit(size):
    images = attack_data()[0].requires_grad_()
    plain, model = build(), build(SlidingWindow(size))
    logits, expected = model(images), plain(images)
    assert torch.equal(logits, expected)
    grads = [torch.autograd.grad(answer.square().sum(), images)[0] for answer in (logits, expected)]
    assert torch.equal(*grads)


def test_a_network_of_odd_sizes_on_a_narrow_image():
    torch.manual_seed(0)
    network = FCN(4, "test_resnet", 8, 8, aux_head=False)
    plain, model = SegmentationModel(network).eval(), SegmentationModel(network, window=SlidingWindow((33, 47))).eval()
    for size in ((20, 95), (91, 29), (34, 48)):
        images = torch.rand(1, 3, *size)
        logits = model(images)
        assert logits.shape == (1, 4, *size)
        torch.testing.assert_close(logits, reference(plain, images, (33, 47), (22, 32)), rtol=1e-4, atol=1e-5)


def test_gradient_matches_finite_differences():
    model = build(SlidingWindow((5, 6), (3, 4), chunk=2)).double()
    images = attack_data((7, 9), 1, torch.float64)[0].requires_grad_()
    assert torch.autograd.gradcheck(model, (images,))


def saved_bytes(function):
    """Bytes that autograd keeps for the backward, each storage once."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        answer = function()
    return sum(kept.values()), answer


def test_what_is_kept_does_not_grow_with_the_number_of_windows(monkeypatch):
    """Recomputed: the images and the counts, whatever the windows. Not recomputed: the activations of all windows."""
    kept = {}
    for size in ((24, 24), (48, 48)):
        images = torch.rand(1, 3, *size, requires_grad=True)
        model = build(SlidingWindow((12, 12), (6, 6)))
        recomputed, logits = saved_bytes(lambda model=model, images=images: model(images))
        with monkeypatch.context() as patch:
            patch.setattr("robustseg.models.window.checkpoint", lambda f, *a, use_reentrant, preserve_rng_state: f(*a))
            everything, same = saved_bytes(lambda model=model, images=images: model(images))
        assert torch.equal(*(torch.autograd.grad(answer.square().sum(), images)[0] for answer in (logits, same)))
        pixels = size[0] * size[1]
        assert recomputed <= 4 * (3 + 1 + 4) * pixels, "images, counts and logits"
        kept[size] = everything / recomputed
    assert kept[24, 24] > 3
    assert kept[48, 48] > kept[24, 24]


def test_each_chunk_is_computed_twice_for_a_gradient_and_once_without():
    sizes = []

    class Watched(Small):
        def forward(self, x):
            sizes.append(tuple(x.shape))
            return super().forward(x)

    model = SegmentationModel(Watched(), window=SlidingWindow((8, 8), (8, 8), chunk=3)).eval()
    images = torch.rand(2, 3, 16, 32, requires_grad=True)
    for without_gradients in (torch.no_grad, torch.inference_mode):
        with without_gradients():
            model(images)
        assert sizes == [(6, 3, 8, 8), (6, 3, 8, 8), (4, 3, 8, 8)]
        sizes.clear()
    model(images).sum().backward()
    assert sizes == [(6, 3, 8, 8), (6, 3, 8, 8), (4, 3, 8, 8), (4, 3, 8, 8), (6, 3, 8, 8), (6, 3, 8, 8)]
    sizes.clear()
    model.window = SlidingWindow((8, 8), (8, 8), chunk=8)
    model(images).sum().backward()
    assert sizes == [(16, 3, 8, 8)], "one chunk alone is not computed twice"


def test_a_random_network_is_recomputed_with_the_same_noise():
    """Gradient of (noise · images) is the noise of the forward."""

    class Noisy(Network):
        def forward(self, x):
            return (x * torch.rand_like(x))[:, :2]

    model = SegmentationModel(Noisy(2), (0.0,) * 3, (1.0,) * 3, SlidingWindow((4, 4), (4, 4))).eval()
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    logits = model(images)
    (grad,) = torch.autograd.grad(logits.sum(), images)
    torch.testing.assert_close((grad * images)[:, :2], logits)


@pytest.mark.parametrize("attack", [PGD(steps=4, eps="8/255"), SegPGD(steps=4, eps="8/255", random_start=False)])
def test_an_attack_goes_through_all_windows_with_one_perturbation(attack, randomise):
    """Equal to the attack on a hand-written sliding function, and within the budget."""
    plain = build(randomise=randomise)
    model = copy.deepcopy(plain)
    model.window = SlidingWindow((8, 9), (5, 6), chunk=2)
    images, targets = attack_data()
    result = attack.run(model, images, targets)
    by_hand = attack.run(lambda x: reference(plain, x, (8, 9), (5, 6)), images, targets)
    # the sign of a gradient next to zero may differ by rounding
    assert (result.images_adv != by_hand.images_adv).float().mean() < 2e-3
    assert result.images_adv.sub(images).abs().max() <= 8 / 255
    assert result.forwards.tolist() == by_hand.forwards.tolist()
    assert result.backwards.tolist() == [4, 4], "one per step and image, whatever the number of windows"
    without = attack(plain, images, targets)
    assert (result.images_adv != without).float().mean() > 0.05, "windows see another gradient than the whole image"


def test_an_attack_leaves_nothing_behind_and_lowers_the_models_own_accuracy():
    model = build(SlidingWindow((8, 9))).train()
    images, _ = attack_data()
    targets = model.eval()(images).argmax(1)
    model.train()
    before = copy.deepcopy(model.state_dict())
    images_adv = PGD(steps=10, eps="16/255")(model, images, targets)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(parameter.grad is not None for parameter in model.parameters())
    wrong = model.eval()(images_adv).argmax(1) != targets
    assert wrong.float().mean() > 0.2


def test_images_do_not_influence_one_another(randomise):
    model = build(SlidingWindow((8, 9), chunk=4), randomise)
    images, targets = attack_data(count=3)
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=1e-5, atol=1e-6)
    attack = PGD(steps=3, random_start=False)
    together, alone = attack(model, images, targets)[1:2], attack(model, images[1:2], targets[1:2])
    assert (together != alone).float().mean() < 2e-3


def test_train_mode_sees_whole_images():
    """BatchNorm sees one batch, once, and the logits are those without a window."""
    images = attack_data()[0]
    plain, model = build().train(), build(SlidingWindow((8, 8))).train()
    assert torch.equal(model(images), plain(images))
    assert int(model.network.layers[1].num_batches_tracked) == 1
    assert not torch.allclose(model.eval()(images), plain.eval()(images), atol=1e-3)


def test_logits_for_the_auxiliary_loss_are_those_of_whole_images():
    torch.manual_seed(0)
    for network in (FCN(4, "test_resnet", 8, 8), nn.Conv2d(3, 4, 3)):
        plain, model = SegmentationModel(network).eval(), SegmentationModel(network, window=SlidingWindow((32, 32)))
        images = torch.rand(2, 3, 48, 40)
        expected = plain.forward_with_aux(images)
        for answer, wanted in zip(model.eval().forward_with_aux(images), expected, strict=True):
            assert (answer is None) == (wanted is None)
            assert answer is None or torch.equal(answer, wanted)


def test_checkpoints_of_models_with_and_without_a_window_are_interchangeable():
    plain, model = build(), build(SlidingWindow((8, 8)))
    assert list(plain.state_dict()) == list(model.state_dict())
    model.load_state_dict(plain.state_dict(), strict=True)


def test_bf16_autocast_gives_float32_logits_and_the_gradient_outside_of_it():
    model = build(SlidingWindow((8, 9)))
    images = attack_data()[0].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images)
    assert logits.dtype == torch.float32
    (grad,) = torch.autograd.grad(logits.square().sum(), images)
    (exact,) = torch.autograd.grad(model(images).square().sum(), images)
    assert not torch.equal(grad, exact), "autocast had no effect"
    assert F.cosine_similarity(grad.flatten(), exact.flatten(), 0) > 0.99


def test_a_network_without_gradient_is_still_refused():
    class Detached(Small):
        def forward(self, x):
            return super().forward(x.detach()).detach()

    model = SegmentationModel(Detached(), window=SlidingWindow((8, 9))).eval()
    with pytest.raises(AttackError, match="does not depend on its input"):
        PGD(steps=1)(model, *attack_data())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": (8, 0)}, ["window.size = [8, 0]", "at least 1"]),
        ({"size": (8,)}, ["size = [8]", "height and width"]),
        ({"size": 8}, ["size = 8", "height and width"]),
        ({"size": (8.5, 8)}, ["size = [8.5, 8]", "whole"]),
        ({"size": (8, 8), "stride": (0, 8)}, ["stride = [0, 8]", "2/3"]),
        (
            {"size": (8, 9), "stride": (4, 10)},
            ["window.stride = [4, 10]", "window.size = [8, 9]", "between the windows"],
        ),
        ({"size": (8, 8), "chunk": 0}, ["chunk = 0", "at least one"]),
    ],
)
def test_windows_that_cannot_be_are_refused(arguments, words):
    with pytest.raises(ModelError) as caught:
        SlidingWindow(**arguments)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_images_and_networks_that_do_not_fit_are_refused_as_without_a_window():
    model = build(SlidingWindow((4, 4)))
    with pytest.raises(ModelError, match="B×3×H×W"):
        model(torch.rand(1, 1, 8, 8))
    with pytest.raises(ModelError, match="B×3×H×W"):
        model(torch.rand(3, 8, 8))
    broken = SegmentationModel(nn.Flatten(), window=SlidingWindow((4, 4))).eval()
    with pytest.raises(ModelError, match="B×C×h×w"):
        broken(torch.rand(1, 3, 8, 8))
