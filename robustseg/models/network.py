"""The base class of raw networks, the values of ``model.network`` in a YAML file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from robustseg.models.errors import ModelError

IMAGENET_MEAN: tuple[float, ...] = (0.485, 0.456, 0.406)
"""RGB mean over ImageNet for images in [0, 1]."""
IMAGENET_STD: tuple[float, ...] = (0.229, 0.224, 0.225)
"""RGB standard deviation over ImageNet for images in [0, 1]."""
RAW_MEAN: tuple[float, ...] = (0.0, 0.0, 0.0)
RAW_STD: tuple[float, ...] = (1.0, 1.0, 1.0)
"""Standard deviation that, with ``RAW_MEAN``, leaves images in [0, 1] unchanged."""

ChannelOrder = Literal["rgb", "bgr"]
_NO_SETTINGS = ("training", "num_classes", "image_mean", "image_std")
"""Public attributes that are no settings: the tensors of a model show them, or they change during training."""


class Network(nn.Module, ABC):
    """A raw network: normalised images in, logits at any resolution out.

    A subclass is selectable by its bare name in YAML. ``SegmentationModel`` adds the normalisation and the resizing to
    the input's size, so a subclass does neither.

    Args:
        num_classes: Number of classes C: at least 2, or 1 for a single foreground logit.

    Attributes:
        image_mean: Per-channel mean that the network's weights expect, for images in [0, 1].
        image_std: Per-channel standard deviation that the network's weights expect.
        channel_order: ``"bgr"`` for weights that expect blue first; mean and standard deviation are in RGB order
            nevertheless.
        align_corners: True if the logits are resized to the images with aligned corners.

    Raises:
        ModelError: ``num_classes`` is less than 1.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ModelError(f"num_classes = {num_classes}: a network needs at least one class.")
        self.num_classes = num_classes
        self.image_mean = IMAGENET_MEAN
        self.image_std = IMAGENET_STD
        self.channel_order: ChannelOrder = "rgb"
        self.align_corners = False

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: B×3×H×W, normalised.

        Returns:
            B×C×h×w logits, where h×w need not be H×W.
        """

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the logits and those of an auxiliary head, for deep supervision while training.

        Args:
            x: B×3×H×W, normalised.

        Returns:
            B×C×h×w logits and B×C×h'×w' auxiliary logits, or None if the network has no auxiliary head.
        """
        return self.forward(x), None

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that decide what the network computes besides its tensors, as plain values: its public attributes.

        Loading weights compares them with those of the network that was trained, since shapes do not show, for example,
        aligned corners.
        """
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if not name.startswith("_") and name not in _NO_SETTINGS and _is_plain(value)
        }

    def rename_saved(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a file's tensors to the network's names, for libraries that save them under other names.

        Args:
            state: State dict of this network or another one, without the prefixes that training scripts add.

        Returns:
            The same tensors; other networks' tensors keep their names.
        """
        return dict(state)


class ExternalNetwork(Network):
    """An adapter for any module that returns logits, or a dict of them as torchvision's do.

    Args:
        module: Module from B×3×H×W normalised images to B×C×h×w logits, or to a dict with ``out`` and optionally
            ``aux``.
        num_classes: Number of classes C of these logits.
        mean: Per-channel mean that the module expects, for images in [0, 1].
        std: Per-channel standard deviation that the module expects.
    """

    def __init__(
        self,
        module: nn.Module,
        num_classes: int,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ) -> None:
        super().__init__(num_classes)
        self.module = module
        self.image_mean, self.image_std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        """Return the main logits; see :meth:`Network.forward`."""
        return self.forward_with_aux(x)[0]

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the main logits and, from a dict, the ``aux`` entry; see :meth:`Network.forward_with_aux`.

        Raises:
            ModelError: The module returned a dict without ``out``.
        """
        output = self.module(x)
        if isinstance(output, dict):
            if "out" not in output:
                keys = ", ".join(map(str, output)) or "none"
                raise ModelError(f"{type(self.module).__name__} returned a dict without 'out' (its keys: {keys}).")
            return output["out"], output.get("aux")
        return output, None


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, int, float, bool)
