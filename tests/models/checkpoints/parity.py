"""What every comparison with another project's network does: random weights, the same file, the same images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustseg.models import IMAGENET_MEAN, IMAGENET_STD, SegmentationModel


def randomise_(module: nn.Module) -> nn.Module:
    """Give convolutions weights that keep the signal, and normalisations and biases values that differ per channel.

    Statistics are random as well, so that swapped tensors and another eps show. In eval mode.
    """
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, nonlinearity="relu")
        if isinstance(child, (nn.BatchNorm2d, nn.SyncBatchNorm, nn.LayerNorm)):
            nn.init.uniform_(child.weight, 0.5, 1.0)
            nn.init.normal_(child.bias, 0.0, 0.1)
        elif isinstance(getattr(child, "bias", None), Tensor):
            nn.init.normal_(child.bias, 0.0, 0.1)
        if isinstance(child, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            child.running_mean.normal_(0.0, 0.1)
            child.running_var.uniform_(0.5, 1.5)
    return module.eval()


def normalised(images: Tensor) -> Tensor:
    """Images as most projects hand them to their networks: ImageNet's mean and standard deviation taken out."""
    mean, std = (torch.tensor(values, dtype=images.dtype).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def resized(logits: Tensor, images: Tensor, align_corners: bool) -> Tensor:
    """Logits at the images' size."""
    return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=align_corners)


def assert_same(model: SegmentationModel, reference, height: int, width: int) -> None:
    """Compare logits and the gradient of their square's mean with respect to the images, in double precision.

    Args:
        model: Loaded from the reference's file.
        reference: Images in [0, 1] to logits at the images' size.
        height: Of the images.
        width: Of the images.
    """
    images = torch.rand(1, 3, height, width, dtype=torch.float64, requires_grad=True)
    expected, found = reference(images), model.double().eval()(images)
    assert expected.shape == found.shape == (1, model.num_classes, height, width)
    assert expected.std(dim=(2, 3)).max() > 0.05, "the image hardly matters: the comparison shows nothing"
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6 * scale)
    expected_grad, found_grad = (
        torch.autograd.grad(logits.square().mean(), images, retain_graph=True)[0] for logits in (expected, found)
    )
    largest = expected_grad.abs().max().item()
    assert largest > 0
    torch.testing.assert_close(found_grad, expected_grad, rtol=0.0, atol=1e-5 * largest)


def parameters(module: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in module.parameters())


def misnormalised(network: nn.Module) -> SegmentationModel:
    """A model whose normalisation is that of no project, so that a file's own is seen to arrive."""
    model = SegmentationModel(network)
    model.mean.fill_(0.3)
    model.std.fill_(0.7)
    return model
