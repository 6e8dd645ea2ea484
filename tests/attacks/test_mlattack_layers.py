"""The layers that MLAttack takes its features from: hooks, names, feature maps of a backbone, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import PGD, AttackError, AttackStep, MLAttack
from robustseg.attacks.losses import features
from robustseg.attacks.losses.features import Taps
from tests.helpers.nets import CLASSES, TinyNet, tiny_batch, tiny_net

from .comparison import assert_allowed
from .table import build
from .test_bad_input import MODELS
from .test_trace import assert_untouched, restless, snapshot

LAYERS = ("layers.1", "layers.4")


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("fail_at", [1, 2, 3])
def test_hooks_are_removed_after_an_exception_in_the_model(fail_at: int):
    model, (images, targets) = restless(fail_at), tiny_batch(torch.float32)
    before = snapshot(model)
    with pytest.raises(AttackError, match=r"KeyError.*inside the model"):
        MLAttack(layers=["body.layers.1"], steps=3)(model, images, targets)
    assert_untouched(before, snapshot(model))


def test_hooks_are_there_during_the_attack_and_removed_after_an_exception_in_the_callback():
    net, (images, targets) = tiny_net(), tiny_batch()
    counts: list[int] = []

    def stop(step: AttackStep) -> None:
        counts.append(hooks(net))
        raise InterruptedError

    with pytest.raises(InterruptedError):
        MLAttack(layers=LAYERS)(net, images, targets, on_step=stop)
    assert counts == [2]
    assert hooks(net) == 0


def test_radius_zero_sets_no_hook_and_takes_no_forward():
    images, targets = tiny_batch()
    assert torch.equal(MLAttack(layers=["nowhere"], eps=0)(lambda x: x, images, targets), images)


class InPlace(nn.Module):
    """The first layer's output is changed in place afterwards."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.first(images)
        logits += images[:, :1]
        return logits.mul_(3)


def test_features_are_those_of_the_layer_and_not_of_what_is_done_to_them_in_place():
    model, (images, targets) = InPlace().double(), tiny_batch()
    seen: list[AttackStep] = []
    MLAttack(layers=["first"], weights=7.0, eps=0.1, step_size=0.02, steps=2)(
        model, images, targets, on_step=seen.append
    )
    labels = targets.masked_fill(targets == 255, -100)
    for step in seen:
        now, clean = model.first(step.images_adv).detach(), model.first(images).detach()
        valid = (labels >= 0).unsqueeze(1)
        difference, energy = (((now - clean) ** 2) * valid).sum((1, 2, 3)), (clean**2 * valid).sum((1, 2, 3))
        entropy = nn.functional.cross_entropy(step.logits, labels, reduction="none").sum((1, 2))
        torch.testing.assert_close(step.loss, entropy + 7 * valid.sum((1, 2, 3)) * difference / energy)


class Pyramid(nn.Module):
    """What timm makes with features_only, in small: a list of feature maps, and a head."""

    class Info:
        def channels(self) -> list[int]:
            return [5, 5]

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.feature_info = Pyramid.Info()
            self.stem = nn.Conv2d(3, 5, 3, 2, 1)
            self.stage = nn.Conv2d(5, 5, 3, 2, 1)

        def forward(self, images: Tensor) -> list[Tensor]:
            first = self.stem(images).tanh()
            return [first, self.stage(first).tanh()]

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = Pyramid.Body()
        self.head = nn.Conv2d(5, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.interpolate(self.head(self.body(images)[-1]), images.shape[-2:])


@pytest.mark.parametrize("indices", [(0,), (-1,), (1, 0)])
def test_feature_maps_by_index(indices: tuple[int, ...]):
    model, (images, targets) = Pyramid().double(), tiny_batch()
    seen: list[AttackStep] = []
    result = MLAttack(layers=indices, weights=1e4, eps=0.05, step_size=0.01, steps=3)(
        model, images, targets, on_step=seen.append
    )
    assert not torch.equal(result, PGD(eps=0.05, step_size=0.01, steps=3)(model, images, targets))
    labels = targets.masked_fill(targets == 255, -100)
    for step in seen:
        expected = nn.functional.cross_entropy(step.logits, labels, reduction="none").sum((1, 2))
        for index in indices:
            clean, now = model.body(images)[index].detach(), model.body(step.images_adv)[index].detach()
            weight = features._valid_share(clean, labels)
            distance = (weight * (now - clean) ** 2).sum((1, 2, 3)) / (weight * clean**2).sum((1, 2, 3))
            expected = expected + 1e4 * (labels >= 0).sum((1, 2)) * distance
        torch.testing.assert_close(step.loss, expected)


def test_share_of_valid_pixels():
    targets = torch.tensor([[[0, 1, -100, -100], [2, 3, -100, 1]]])
    share = features._valid_share(torch.zeros(1, 7, 1, 2), targets)
    assert share.tolist() == [[[[1.0, 0.25]]]]
    # Tokens and channels-last features have no positions that could be told.
    assert features._valid_share(torch.zeros(1, 2, 7), targets) is None
    assert features._valid_share(torch.zeros(1, 1, 2, 7), targets) is None


def test_dead_layer_does_not_divide_by_zero():
    net, (images, targets) = tiny_net(), tiny_batch()
    net.layers[4].weight.data.zero_()
    net.layers[4].bias.data.zero_()
    assert torch.isfinite(MLAttack(layers=["layers.4"])(net, images, targets)).all()


def test_backbone_of_the_package():
    from robustseg.models import FCN, SegmentationModel

    torch.manual_seed(0)
    model = SegmentationModel(FCN(3, "resnet10t", None, channels=8, aux_head=False))
    images, targets = torch.rand(1, 3, 64, 64), torch.randint(3, (1, 64, 64))
    model.eval()
    attack = MLAttack(steps=2)
    images_adv = attack(model, images, targets)
    assert_allowed(images_adv, images, 8 / 255, "linf")
    assert hooks(model) == 0
    named = MLAttack(layers=["backbone.body.layer3", "backbone.body.layer4"], steps=2)(model, images, targets)
    assert torch.equal(images_adv, named)
    with pytest.raises(AttackError, match=r"layer 2: the backbone gives 2 feature maps; choose from 0 to 1"):
        MLAttack(layers=[2])(model, images, targets)
    assert hooks(model) == 0


class Odd(nn.Module):
    """Layers with outputs that are no features of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CLASSES, 1)
        self.several = Several()
        self.whole = Whole()
        self.numbers = Numbers()
        self.unused = nn.Identity()
        self.twice = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        self.several(images)
        self.whole(images)
        self.numbers(images)
        return self.twice(self.conv(self.twice(images)))


class Several(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, images


class Whole(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten()


class Numbers(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.long()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("convv", r"Odd has no layer 'convv'; there are, for example, conv"),
        ("xyz", r"no layer 'xyz'; there are, for example, conv, several, whole"),
        ("several", r"layer 'several' gives a tuple, not a tensor of features: choose a layer inside of it"),
        ("numbers", r"layer 'numbers' gives a torch.int64, not a tensor of features"),
        ("whole", r"gives \(252,\) for 2 images: choose layers whose features have the images as their first"),
        ("unused", r"layer 'unused' ran 0 times in a forward: choose a layer that runs once"),
        ("twice", r"layer 'twice' ran 2 times in a forward"),
        (0, r"layer 0 counts the feature maps of a timm backbone, and Odd has none"),
    ],
    ids=str,
)
def test_layers_that_cannot_be_used(layer: int | str, message: str):
    model = Odd()
    with pytest.raises(AttackError, match=message):
        MLAttack(layers=[layer])(model, *tiny_batch(torch.float32))
    assert hooks(model) == 0


def test_near_names_and_ends_of_names():
    model, (images, targets) = nn.ModuleDict({"a": TinyNet(), "b": TinyNet()}), tiny_batch(torch.float32)
    model.forward = lambda x: model["a"](x)
    with pytest.raises(AttackError, match=r"layer 'layers.1' may be a.layers.1, b.layers.1: give more of the name"):
        MLAttack(layers=["layers.1"])(model, images, targets)
    with pytest.raises(AttackError, match=r"no layer 'a.layer.1'; there are, for example, a\.layers"):
        MLAttack(layers=["a.layer.1"])(model, images, targets)
    with pytest.raises(AttackError, match=r"no layer 'ayers.1'"):
        MLAttack(layers=["ayers.1"])(model, images, targets)
    assert MLAttack(layers=["a.layers.1"])(model, images, targets).shape == images.shape


def test_feature_index_where_the_backbone_gives_no_list():
    model = Pyramid()
    model.body.forward = lambda x: model.body.stem(x)
    model.forward = lambda x: model.body(x)
    with pytest.raises(AttackError, match=r"backbone of layer 1 gives a Tensor, not a list of features"):
        MLAttack(layers=[1])(model, *tiny_batch(torch.float32))


def test_plain_function_has_no_layers():
    net = tiny_net(torch.float32)
    with pytest.raises(AttackError, match=r"a function, not a module, so that it has no layers.*give the module"):
        MLAttack(layers=["layers.1"])(lambda x: net(x), *tiny_batch(torch.float32))


class Beside(nn.Module):
    """Runs a network for its layers, but answers with something else."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.net = tiny_net(torch.float32)
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        self.net(images)
        return self.function(images)


# Not those whose logits say nothing about the input but want a gradient: the features still do.
@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind not in ("function of weights only",)])
def test_models_that_cannot_be_attacked(kind: str):
    function, message = MODELS[kind]
    model = Beside(function)
    with pytest.raises(AttackError, match=message):
        build("MLAttack")(model, *tiny_batch(torch.float32))
    assert hooks(model) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": []}, r"layers = \[\]: give a list of at least one layer"),
        ({"layers": "layer4"}, r"layers = 'layer4': give a list"),
        ({"layers": [""]}, r"layers = \[''\]"),
        ({"weights": [1.0]}, r"weights = \[1.0\]: 2 layers need as many weights, or one for all"),
        ({"weights": -1}, r"weights = -1: a layer's weight is a finite number"),
        ({"weights": [1, float("nan")]}, r"weights = \[1, nan\]"),
        ({"weights": float("inf")}, r"weights = inf"),
    ],
    ids=str,
)
def test_settings(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        MLAttack(**settings)


def test_description():
    described = MLAttack(layers=[-2, "head"], weights=[1, 0.5]).describe()
    assert described["attack"] == "MLAttack"
    assert (described["layers"], described["weights"]) == ([-2, "head"], [1.0, 0.5])


def test_taps_are_removed_on_leaving():
    net = tiny_net()
    with Taps(net, ["layers.0"]):
        assert hooks(net) == 1
    assert hooks(net) == 0
