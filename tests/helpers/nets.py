"""Tiny networks and batches that tests of several packages share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustseg.models import Network
from robustseg.types import Batch

CLASSES = 4
HEIGHT, WIDTH = 7, 6


class TinyNet(nn.Module):
    """Two 3×3 convolutions with BatchNorm and smooth nonlinearities: neither linear nor piecewise linear."""

    def __init__(self, classes: int = CLASSES):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, padding_mode="replicate"),
            nn.BatchNorm2d(6),
            nn.Tanh(),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.GELU(),
            nn.Conv2d(6, classes, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers((images - 0.45) / 0.25)
        return logits


class PerPixelNet(nn.Module):
    """No pixel sees its neighbours, so that an ignored pixel has no way to influence another one."""

    def __init__(self, classes: int = CLASSES):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Tanh(), nn.Conv2d(8, classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


class CountingNet(nn.Module):
    """Counts forwards, backwards to the input and gradients of its weights."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner
        self.forwards = 0
        self.backwards = 0
        self.weight_gradients = 0
        for parameter in inner.parameters():
            parameter.register_hook(self._on_weight_gradient)

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += 1
        if images.requires_grad:
            images = images.clone()
            images.register_hook(self._on_input_gradient)
        logits: Tensor = self.inner(images)
        return logits

    def _on_input_gradient(self, grad: Tensor) -> None:
        self.backwards += 1

    def _on_weight_gradient(self, grad: Tensor) -> None:
        self.weight_gradients += 1


class Around(nn.Module):
    """A function of images as a module, with the layers of the module that it calls."""

    def __init__(self, inner: nn.Module, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.inner = inner
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def tiny_net(dtype: torch.dtype = torch.float64, classes: int = CLASSES, seed: int = 3) -> nn.Module:
    """A network with weights, and BatchNorm statistics, that are a function of the seed."""
    generator = torch.Generator().manual_seed(seed)
    net = TinyNet(classes)
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            around_one = name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight"))
            tensor.data.copy_(1 + 0.3 * noise.clamp(-2, 2) if around_one else 0.5 * noise)
    return net.to(dtype).eval()


def per_pixel_net(dtype: torch.dtype = torch.float64, classes: int = CLASSES, seed: int = 5) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    net = PerPixelNet(classes)
    for parameter in net.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return net.to(dtype).eval()


def tiny_batch(
    dtype: torch.dtype = torch.float64,
    batch: int = 2,
    seed: int = 0,
    ignore_index: int = 255,
    classes: int = CLASSES,
    ignored: bool = True,
) -> tuple[Tensor, Tensor]:
    """Images that touch 0 and 1, and targets of which about a tenth is ignored, in image 1 an entire row."""
    generator = torch.Generator().manual_seed(seed)
    images = (1.1 * torch.rand(batch, 3, HEIGHT, WIDTH, generator=generator, dtype=torch.float64) - 0.05).clamp(0, 1)
    targets = torch.randint(classes, (batch, HEIGHT, WIDTH), generator=generator)
    if ignored:
        targets[torch.rand(targets.shape, generator=generator) < 0.1] = ignore_index
        targets[0, 2, 3] = ignore_index
        targets[min(1, batch - 1), 4, :] = ignore_index
    return images.to(dtype), targets


class ToyNetwork(Network):
    """Two convolutions with BatchNorm, a backbone and an auxiliary head of its own."""

    def __init__(self, num_classes: int = 4, aux: bool = False):
        super().__init__(num_classes)
        self.backbone = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, stride=2), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Conv2d(6, num_classes, 1)
        self.aux = nn.Conv2d(6, num_classes, 1) if aux else None

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_with_aux(x)[0]

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.backbone(x)
        return self.head(features), None if self.aux is None else self.aux(features)


class SharpNetwork(Network):
    """Three convolutions at the images' own resolution, which can learn a few images to the pixel."""

    def __init__(self, num_classes: int, width: int = 24):
        super().__init__(num_classes)
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=2, dilation=2),
            nn.ReLU(),
            nn.Conv2d(width, num_classes, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


def toy_batch(size: int, seed: int = 0, num_classes: int = 4, side: int = 12) -> Batch:
    """Random images and targets with an ignored share that differs from image to image."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 3, side, side, generator=generator)
    targets = torch.randint(0, num_classes, (size, side, side), generator=generator)
    for row in range(size):
        targets[row, : 1 + row % 4] = 255
    return Batch(images, targets, [f"sample-{seed}-{row}" for row in range(size)])
