"""The model as attacks, losses and metrics see it: [0, 1] images in, logits at the input's size out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustseg.models.errors import ModelError
from robustseg.models.network import IMAGENET_MEAN, IMAGENET_STD, Network
from robustseg.models.window import SlidingWindow


class SegmentationModel(nn.Module):
    """A segmentation model: normalisation, network and upsampling in one differentiable module.

    The normalisation is inside, so that a threat model's ε is in units of [0, 1] images for every network. ``mean`` and
    ``std`` are persistent buffers: weights need the normalisation they were trained with, so it is saved in the
    checkpoint, and the checkpoint's values win on loading. With non-persistent buffers, a differing configuration would
    silently degrade the model.

    Args:
        network: The raw network; a plain module with a ``num_classes`` attribute is enough.
        mean: Per-channel mean for images in [0, 1]; None for the network's, or else ImageNet's.
        std: Per-channel standard deviation for images in [0, 1]; None for the network's, or else ImageNet's.
        window: In eval mode, images larger than this go through the network in overlapping windows, which attacks see
            as part of the model. None for whole images of any size. It is not in the state dict.

    Raises:
        ModelError: ``mean`` and ``std`` differ in length, or ``std`` is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        window: SlidingWindow | None = None,
    ) -> None:
        super().__init__()
        self.normalisation_given = mean is not None or std is not None
        """True if the normalisation was given: another project's file then does not replace it."""
        mean = getattr(network, "image_mean", IMAGENET_MEAN) if mean is None else mean
        std = getattr(network, "image_std", IMAGENET_STD) if std is None else std
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ModelError(f"mean = {list(mean)}, std = {list(std)}: give one mean and one positive std per channel.")
        self.network = network
        self.window = window
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32).view(1, -1, 1, 1))

    @property
    def num_classes(self) -> int:
        """The number of classes C, which is the number of logits per pixel.

        Raises:
            ModelError: The network does not say.
        """
        value = getattr(self.network, "num_classes", None)
        if not isinstance(value, int):
            raise ModelError(f"{type(self.network).__name__} has no num_classes: wrap it in ExternalNetwork.")
        return value

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits at the input's size, through ``window`` if there is one, in eval mode.

        In train mode images are training crops and go through whole: BatchNorm's statistics of some windows would be
        neither the crops' nor the image's.

        Args:
            images: B×3×H×W float in [0, 1].

        Returns:
            B×C×H×W logits, float32 or wider also under autocast.

        Raises:
            ModelError: ``images`` are not float B×3×H×W, or the network did not return B×C×h×w logits.
        """
        self._check_images(images)
        if self.window is None or self.training or self.window.covers(*images.shape[-2:]):
            return self._whole(images)
        return self.window.average(self._whole, images)

    def forward_with_aux(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the logits and the auxiliary head's, both at the input's size, for whole images without a window.

        Args:
            images: B×3×H×W float in [0, 1].

        Returns:
            B×C×H×W logits and B×C×H×W auxiliary logits, or None if the network has no auxiliary head.

        Raises:
            ModelError: ``images`` are not float B×3×H×W, or the network did not return B×C×h×w logits.
        """
        self._check_images(images)
        if not isinstance(self.network, Network):
            return self._whole(images), None
        logits, aux_logits = self.network.forward_with_aux(self._normalise(images))
        return self._resize(logits, images), None if aux_logits is None else self._resize(aux_logits, images)

    def _whole(self, images: Tensor) -> Tensor:
        return self._resize(self.network(self._normalise(images)), images)

    def _normalise(self, images: Tensor) -> Tensor:
        normalised = (images - self.mean) / self.std
        return normalised.flip(1) if getattr(self.network, "channel_order", "rgb") == "bgr" else normalised

    def _check_images(self, images: Tensor) -> None:
        channels = self.mean.shape[1]
        if images.dim() != 4 or images.shape[1] != channels or not images.is_floating_point():
            raise ModelError(
                f"images are {images.dtype} {list(images.shape)}: float B×{channels}×H×W in [0, 1] expected."
            )

    def _resize(self, logits: Tensor, images: Tensor) -> Tensor:
        self._check_logits(logits, images)
        if logits.dtype in (torch.float16, torch.bfloat16):
            # interpolation in half precision makes neighbouring logits equal, and the loss loses its small gradients
            logits = logits.float()
        if logits.shape[-2:] == images.shape[-2:]:
            return logits
        aligned = bool(getattr(self.network, "align_corners", False))
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=aligned)

    def _check_logits(self, logits: object, images: Tensor) -> None:
        name = type(self.network).__name__
        if not isinstance(logits, Tensor):
            hint = "wrap it in ExternalNetwork" if isinstance(logits, dict) else "return the logits only"
            raise ModelError(f"{name} returned a {type(logits).__name__}, not B×C×h×w logits: {hint}.")
        if logits.dim() != 4 or logits.shape[0] != images.shape[0]:
            raise ModelError(
                f"{name} returned {list(logits.shape)} for images {list(images.shape)}: B×C×h×w logits expected."
            )
        classes = getattr(self.network, "num_classes", logits.shape[1])
        if logits.shape[1] != classes:
            raise ModelError(f"{name} returned {logits.shape[1]} logits per pixel, but its num_classes = {classes}.")
