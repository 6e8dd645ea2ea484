import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from robustseg.models import FCN8s, FCN16s, FCN32s, ModelError, SegmentationModel
from robustseg.models.vgg import ConvVGG, as_convolutions

SMALL = {"backbone": "vgg11_bn", "width": 4, "channels": 16}


@pytest.mark.parametrize("kind", [FCN8s, FCN16s, FCN32s])
@pytest.mark.parametrize("size", [(33, 47), (97, 131), (7, 5)])
def test_images_of_any_size_train(kind, size):
    model = SegmentationModel(kind(3, **SMALL)).train()
    for layer in model.network.children():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight)
    images = torch.rand(1, 3, *size, requires_grad=True)
    logits = model(images)
    assert logits.shape == (1, 3, *size)
    logits.square().sum().backward()
    # each pixel of the image counts, those at the borders too
    assert (images.grad.abs().sum(1) > 0).all()


def test_caffe_normalisation_is_blue_first_and_of_0_to_255():
    model = SegmentationModel(FCN8s(3, normalisation="caffe", **SMALL))
    red = torch.zeros(1, 3, 4, 4)
    red[:, 0] = 1.0
    with torch.no_grad():
        found = model._normalise(red)[0, :, 0, 0]
    torch.testing.assert_close(found, torch.tensor([-104.00698793, -116.66876762, 255 - 122.67891434]))
    imagenet = SegmentationModel(FCN8s(3, **SMALL))
    assert imagenet.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert imagenet.network.channel_order == "rgb"


def shapes_only(state):
    """Zeros of the same shapes, of a single value each."""
    return {key: torch.zeros((), dtype=value.dtype, device="cpu").expand(value.shape) for key, value in state.items()}


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_both_names_of_classification_weights_fit(library, name, tmp_path):
    with torch.device("meta"):
        make = (lambda: timm.create_model(name)) if library == "timm" else getattr(torchvision.models, name)
        torch.save(shapes_only(make().state_dict()), tmp_path / "vgg.pth")
        FCN32s(3, name, weights=str(tmp_path / "vgg.pth"))


def test_hidden_layers_compute_the_same_as_convolutions():
    hidden = nn.Sequential(nn.Linear(2 * 49, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 6))
    features = torch.rand(1, 2, 7, 7)
    state = as_convolutions({f"classifier.{key}": value for key, value in hidden.state_dict().items()})
    found = F.conv2d(
        F.conv2d(features, state["fc6.weight"], state["fc6.bias"]).relu(), state["fc7.weight"], state["fc7.bias"]
    )
    torch.testing.assert_close(found.flatten(), hidden.eval()(features.flatten(1)).flatten())


def test_narrow_hidden_layers_leave_the_files_out(tmp_path):
    with torch.device("meta"):
        state = shapes_only(torchvision.models.vgg11().state_dict())
    state["features.8.weight"] = torch.randn(256, 256, 3, 3)
    torch.save(state, tmp_path / "vgg11.pth")
    backbone = ConvVGG("vgg11", hidden=8, weights=str(tmp_path / "vgg11.pth"))
    assert torch.equal(backbone.features[8].weight, state["features.8.weight"])
    assert backbone.fc6.weight.abs().sum() > 0


def test_pooling_keeps_incomplete_windows():
    backbone = ConvVGG("vgg11", 4, 8).eval()
    pool3, pool4, fc7 = backbone(torch.rand(1, 3, 33, 47))
    # 231 and 245 after the first convolution, halved upwards
    assert [level.shape[-2:] for level in (pool3, pool4, fc7)] == [(29, 31), (15, 16), (2, 2)]


def save_vgg11(path):
    with torch.device("meta"):
        state = shapes_only(torchvision.models.vgg11().state_dict())
    torch.save(state, path)
    return str(path)


def test_start_of_another_depth_is_refused(tmp_path):
    path = save_vgg11(tmp_path / "vgg11.pth")
    with pytest.raises(ModelError, match=r"vgg11\.pth does not hold the weights of backbone vgg13"):
        ConvVGG("vgg13", hidden=8, weights=path)
