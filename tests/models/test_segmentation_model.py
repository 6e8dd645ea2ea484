import copy
import io

import pytest
import torch
from torch import nn

from robustseg.models import FCN, IMAGENET_MEAN, ExternalNetwork, ModelError, Network, PSPNet, SegmentationModel


class Strided(Network):
    """A quarter of the resolution, with BatchNorm, small enough for exact checks."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__(num_classes)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 5, stride=4, padding=2), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, num_classes, 1)
        )

    def forward(self, x):
        return self.layers(x)


class Returns(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make
        self.num_classes = 5

    def forward(self, x):
        return self.make(x)


def test_logits_have_the_size_of_an_odd_input():
    model = SegmentationModel(PSPNet(7, "resnet10t", 16, 8)).eval()
    logits, aux_logits = model.forward_with_aux(torch.rand(2, 3, 97, 131))
    assert logits.shape == aux_logits.shape == (2, 7, 97, 131)
    assert model.num_classes == 7


def test_forward_equals_the_main_output_with_aux_and_aux_differs():
    model = SegmentationModel(FCN(5, "resnet10t", 16, 8)).eval()
    images = torch.rand(1, 3, 33, 47)
    logits, aux_logits = model.forward_with_aux(images)
    torch.testing.assert_close(model(images), logits)
    assert not torch.allclose(logits, aux_logits)


def test_without_aux_head_there_are_no_aux_logits_and_no_parameters_for_them():
    model = SegmentationModel(FCN(5, "resnet10t", 16, 8, aux_head=False))
    assert model.eval().forward_with_aux(torch.rand(1, 3, 33, 47))[1] is None
    assert not [key for key in model.state_dict() if "aux" in key]


def test_input_gradient_is_the_closed_form_through_the_normalisation():
    conv = nn.Conv2d(3, 5, 1)
    mean, std = (0.1, 0.4, 0.7), (0.2, 0.5, 0.25)
    model = SegmentationModel(ExternalNetwork(conv, 5), mean, std).double()
    images = torch.rand(2, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    logits = model(images)
    (grad,) = torch.autograd.grad((logits * upstream).sum(), images)
    scale = torch.tensor(std).double()
    shifted = (images - torch.tensor(mean).double().view(3, 1, 1)) / scale.view(3, 1, 1)
    weight = conv.weight[:, :, 0, 0]
    torch.testing.assert_close(logits, torch.einsum("ci,bihw->bchw", weight, shifted) + conv.bias.view(5, 1, 1))
    torch.testing.assert_close(grad, torch.einsum("ci,bchw->bihw", weight / scale, upstream))


def test_input_gradient_matches_finite_differences_through_the_upsampling():
    model = SegmentationModel(Strided()).double().eval()
    images = torch.rand(1, 3, 9, 11, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model, (images,))


def test_upsampling_is_half_pixel_bilinear():
    """Upsampled by 2 along x, a row (0, 4) is (0, 1, 3, 4): with aligned corners it would be (0, 4/3, 8/3, 4)."""
    row = torch.tensor([0.0, 4.0]).view(1, 1, 1, 2).expand(1, 5, 1, 2)
    logits = SegmentationModel(Returns(lambda x: row))(torch.rand(1, 3, 1, 4))
    torch.testing.assert_close(logits[0, 0, 0], torch.tensor([0.0, 1.0, 3.0, 4.0]))


def test_float64_agrees_with_float32():
    model = SegmentationModel(PSPNet(5, "resnet10t", 16, 8)).eval()
    images = torch.rand(1, 3, 33, 47)
    double = copy.deepcopy(model).double()(images.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), model(images), rtol=1e-3, atol=1e-4)


def test_bf16_autocast_gives_float32_logits_and_an_input_gradient():
    model = SegmentationModel(PSPNet(5, "resnet10t", 16, 8)).eval()
    images = torch.rand(1, 3, 33, 47, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, model(images)), "autocast had no effect"
    (grad,) = torch.autograd.grad(logits.square().sum(), images)
    assert grad.abs().sum() > 0
    assert grad.isfinite().all()


def test_eval_mode_does_not_depend_on_the_other_images(randomise):
    model = randomise(SegmentationModel(PSPNet(5, "resnet10t", 16, 8))).eval()
    images = torch.rand(3, 3, 33, 47)
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=1e-4, atol=1e-5)


def test_training_step_reaches_every_parameter():
    model = SegmentationModel(PSPNet(5, "resnet10t", 16, 8)).train()
    logits, aux_logits = model.forward_with_aux(torch.rand(2, 3, 33, 47))
    (logits.square().mean() + aux_logits.square().mean()).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_normalisation_travels_with_the_state_dict():
    trained = SegmentationModel(Strided(), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    fresh = SegmentationModel(Strided())
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    images = torch.rand(1, 3, 9, 11)
    torch.testing.assert_close(fresh.eval()(images), trained.eval()(images))


def test_normalisation_defaults_to_what_the_backbone_was_trained_with():
    assert SegmentationModel(Strided()).mean.flatten().tolist() == pytest.approx(IMAGENET_MEAN)
    args = {"dynamic_img_size": True, "dynamic_img_pad": True}
    network = FCN(5, "vit_tiny_patch16_224", None, 8, backbone_args=args)
    assert SegmentationModel(network).mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert SegmentationModel(network, IMAGENET_MEAN).mean.flatten().tolist() == pytest.approx(IMAGENET_MEAN)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: {"out": x}, ["Returns", "dict", "ExternalNetwork"]),
        (lambda x: (x, x), ["tuple", "logits"]),
        (lambda x: x.flatten(1), ["B×C×h×w"]),
        (lambda x: torch.cat([x, x]), ["B×C×h×w"]),
        (lambda x: x, ["3 logits", "num_classes = 5"]),
    ],
)
def test_network_that_returns_no_logits_is_named(make, words):
    with pytest.raises(ModelError) as caught:
        SegmentationModel(Returns(make))(torch.rand(2, 3, 8, 8))
    assert_message(caught, *words)


@pytest.mark.parametrize(
    "images", [torch.rand(3, 8, 8), torch.rand(2, 1, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)]
)
def test_input_that_is_no_image_batch_is_refused(images):
    with pytest.raises(ModelError) as caught:
        SegmentationModel(Strided())(images)
    assert_message(caught, "B×3×H×W", str(images.dtype))


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (1.0, 1.0)), ((0.5,) * 3, (1.0, 0.0, 1.0))])
def test_impossible_normalisation_is_refused(mean, std):
    with pytest.raises(ModelError) as caught:
        SegmentationModel(Strided(), mean, std)
    assert_message(caught, "std")


def test_num_classes_must_be_known_and_positive():
    with pytest.raises(ModelError) as caught:
        _ = SegmentationModel(nn.Conv2d(3, 5, 1)).num_classes
    assert_message(caught, "Conv2d", "num_classes", "ExternalNetwork")
    with pytest.raises(ModelError) as caught:
        Strided(0)
    assert_message(caught, "num_classes = 0")


def test_plain_module_serves_as_network():
    model = SegmentationModel(nn.Conv2d(3, 5, 1))
    logits, aux_logits = model.forward_with_aux(torch.rand(2, 3, 8, 8))
    assert logits.shape == (2, 5, 8, 8)
    assert aux_logits is None


def test_external_network_reads_torchvisions_dict():
    network = ExternalNetwork(Returns(lambda x: {"out": x, "aux": 2 * x}), 3)
    model = SegmentationModel(network, (0.0,) * 3, (1.0,) * 3)
    images = torch.rand(2, 3, 8, 8)
    logits, aux_logits = model.forward_with_aux(images)
    torch.testing.assert_close(logits, images)
    torch.testing.assert_close(aux_logits, 2 * images)
    with pytest.raises(ModelError) as caught:
        ExternalNetwork(Returns(lambda x: {"logits": x}), 3)(images)
    assert_message(caught, "'out'", "logits")


def assert_message(caught, *words):
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
