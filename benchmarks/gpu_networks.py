"""Networks and batches of the GPU checks: tiny ones for correctness, the shipped ones for speed."""

from __future__ import annotations

import copy
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustseg.data.synthetic import SceneDataset
from robustseg.models import PSPNet, SegmentationModel
from robustseg.models.catalogue import catalogue, classes

CLASSES = 7
SIZE = (48, 64)
IDS = ("a", "b", "c", "d")


def calibrated(
    model: nn.Module, size: tuple[int, int], device: torch.device, batch: int = 4, times: int = 40
) -> nn.Module:
    """Give a model its own BatchNorm statistics, as the initial ones let activations fade; return it frozen.

    Args:
        model: Of random weights.
        size: (height, width) of the images.
        device: Where it runs from now on.
        batch: Images at a time.
        times: Forwards; with a momentum of 0.1 forty forget the initial statistics.
    """
    model = model.to(device).train()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(times):
            model(torch.rand(batch, 3, *size, generator=generator).to(device))
    return model.eval().requires_grad_(False)


def tiny_network(aux_head: bool = False) -> PSPNet:
    """Build a PSPNet of 0.4 million parameters, the same weights at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PSPNet(
            CLASSES, "resnet10t", aux_head=aux_head, channels=32, backbone_args={"channels": [16, 32, 64, 128]}
        )


@cache
def _tiny() -> SegmentationModel:
    model = SegmentationModel(tiny_network())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        calibrated(model, SIZE, torch.device("cpu"))
    return model


def tiny_model(device: torch.device, dtype: torch.dtype = torch.float32) -> SegmentationModel:
    """Return the calibrated tiny model: equal weights on every device, computed on the CPU."""
    return copy.deepcopy(_tiny()).to(device=device, dtype=dtype)


def tiny_batch(device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return four images and the model's own predictions as targets; a tenth of them and the last image are ignored."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(len(IDS), 3, *SIZE, generator=generator)
    targets = _tiny()(images).argmax(1)
    targets[torch.rand(targets.shape, generator=generator) < 0.1] = 255
    targets[-1] = 255
    return images.to(device=device, dtype=dtype), targets.to(device)


def scenes(count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Draw embedded scenes: images in [0, 1] and targets."""
    drawn = SceneDataset("train", count, size)
    samples = [drawn[index] for index in range(count)]
    return torch.stack([sample.image for sample in samples]), torch.stack([sample.target for sample in samples])


@cache
def trained_model(device: torch.device, steps: int) -> tuple[SegmentationModel, Tensor, Tensor]:
    """Train the tiny network on scenes for some updates; return it frozen, and 16 images with their targets."""
    images, targets = (each.to(device) for each in scenes(64, (64, 64)))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        model = SegmentationModel(tiny_network()).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for step in range(steps):
            rows = torch.arange(16, device=device) + 16 * (step % 4)
            loss = F.cross_entropy(model(images[rows]), targets[rows], ignore_index=255)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval().requires_grad_(False), images[:16], targets[:16]


def shipped(name: str, num_classes: int = 21) -> SegmentationModel:
    """Build a network of ``configs/network`` with random weights; nothing is downloaded."""
    variant = catalogue()[name]
    arguments = {key: value for key, value in variant.init_args.items() if key not in ("pretrained", "weights")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SegmentationModel(classes()[variant.network](num_classes, **arguments))


def pixel_acc(model: nn.Module, images: Tensor, targets: Tensor) -> float:
    """Return the share of valid pixels that are predicted right, in percent, by a forward in the model's precision."""
    with torch.no_grad():
        right = model(images).argmax(1) == targets
    valid = targets != 255
    return 100.0 * float((right & valid).sum()) / float(valid.sum())
