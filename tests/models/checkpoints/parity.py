"""Comparison with another project's network: random weights, the same file, the same images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustseg.models import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ModelError,
    SegmentationModel,
    load_segmentation_weights,
)


@dataclass(frozen=True)
class Case:
    """A small network of a project, and this package's that reads its file; `test_parity.py` compares them."""

    name: str
    layout: str
    build: Callable[[], Any]
    """The reference, in eval mode, with random weights."""
    ours: Callable[..., SegmentationModel]
    """Of changed settings, with the weights and the normalisation of no project."""
    sizes: tuple[tuple[int, int], ...]
    logits: Callable[[Any, Tensor], Tensor] = lambda reference, images: reference(normalised(images))
    """The reference's logits at the images' size."""
    auxiliary: Callable[[Any, Tensor], Tensor] | None = None
    """Those of its auxiliary head."""
    wrap: Callable[[Any], Any] = lambda state: state
    """A state dict as the project saves it."""
    read: Callable[[Tensor], Tensor] = lambda logits: logits
    """What of this package's logits the reference returns."""
    surplus: Callable[[Any], int] = lambda reference: 0
    """Parameters of the reference that take no part."""
    refuses: tuple[tuple[dict[str, Any], str], ...] = ()
    """Settings that the shapes do not show, and what their error says."""


@dataclass(frozen=True)
class Full:
    """A network at its published size and this package's, built without memory; parameters where published."""

    name: str
    build: Callable[[], nn.Module]
    ours: Callable[[], nn.Module]
    published: int | None = None
    surplus: Callable[[Any], int] = lambda reference: 0


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
    return normalised_by(images, IMAGENET_MEAN, IMAGENET_STD)


def normalised_by(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images without this mean and standard deviation, in single precision as a model keeps them."""
    mean_, std_ = (torch.tensor(values).to(images.dtype).view(1, 3, 1, 1) for values in (mean, std))
    return (images - mean_) / std_


def resized(logits: Tensor, images: Tensor, align_corners: bool) -> Tensor:
    """Logits at the images' size."""
    return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=align_corners)


def assert_same(
    model: SegmentationModel,
    reference: Callable[[Tensor], Tensor],
    height: int,
    width: int,
    read: Callable[[Tensor], Tensor] = lambda logits: logits,
) -> None:
    """Compare logits and the gradient of their square's mean with respect to the images, in double precision.

    Args:
        model: Loaded from the reference's file.
        reference: Images in [0, 1] to logits at the images' size.
        height: Of the images.
        width: Of the images.
        read: What of the model's logits the reference returns.
    """
    images = torch.rand(1, 3, height, width, dtype=torch.float64, requires_grad=True)
    logits = model.double().eval()(images)
    expected, found = reference(images), read(logits)
    assert (logits.exp().sum(1) - 1).abs().max() > 0.1, "log-probabilities instead of logits"
    assert expected.shape == found.shape == (1, model.num_classes, height, width)
    assert expected.std(dim=(2, 3)).max() > 0.05, "the image hardly matters: the comparison shows nothing"
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6 * scale)
    expected_grad, found_grad = (
        torch.autograd.grad(values.square().mean(), images, retain_graph=True)[0] for values in (expected, found)
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


def refused(model: SegmentationModel, path: Path) -> str:
    """The error of a load: one line that names the file; the model stays as it was."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        load_segmentation_weights(model, path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)
