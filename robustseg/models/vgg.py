"""VGG made fully convolutional: its classifier's hidden layers are convolutions over the features."""

from __future__ import annotations

from collections.abc import Mapping

import timm
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from robustseg.models.checkpoints.read import read_state_dict, without_prefix
from robustseg.models.errors import ModelError
from robustseg.models.network import IMAGENET_MEAN, IMAGENET_STD
from robustseg.models.starts import load_start

DEPTHS: dict[str, tuple[int, ...]] = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
"""Convolutions in each of the five blocks (Simonyan and Zisserman, ICLR 2015, table 1)."""
WIDTHS = (64, 128, 256, 512, 512)
"""Channels of each of the five blocks."""
HIDDEN = 4096
"""Width of the two hidden layers of the classifier."""
PADDING = 100
"""Padding of the image in pixels: fc6 needs 7×7 cells of 32 pixels, also for small images."""


class ConvVGG(nn.Module):
    """A VGG with fc6 and fc7 as convolutions over the features of a widely padded image.

    Source: Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, section 4.1; layer by
    layer as in wkentaro/pytorch-fcn: 100 pixels of padding, pooling that keeps incomplete windows, and dropout of
    whole channels with probability 0.5.

    Args:
        name: ``vgg11``, ``vgg13``, ``vgg16`` or ``vgg19``, with ``_bn`` for BatchNorm, and with or without a
            pretrained tag of timm's, as in ``vgg16.tv_in1k``.
        width: Channels of the first block; the others are in proportion.
        hidden: Width of fc6 and fc7; at 4096, as in the classification network, they are loaded from its layers.
        pretrained: Let timm download the weights.
        weights: Local file of weights instead of a download, with torchvision's or timm's names.

    Attributes:
        channels: Channels of pool3, pool4 and fc7.
        mean: Per-channel mean of the images that timm's weights of this name were trained on, in units of [0, 1].
        std: Per-channel standard deviation of these images, in units of [0, 1].

    Raises:
        ModelError: The name is unknown, a width is out of range, or the weights cannot be downloaded or do not fit.
    """

    def __init__(
        self,
        name: str = "vgg16",
        width: int = 64,
        hidden: int = HIDDEN,
        pretrained: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        architecture = _check_arguments(name, width, hidden, pretrained, weights)
        config = get_pretrained_cfg(name)
        self.mean: tuple[float, ...] = tuple(config.mean) if config else IMAGENET_MEAN
        self.std: tuple[float, ...] = tuple(config.std) if config else IMAGENET_STD
        widths = [channels * width // WIDTHS[0] for channels in WIDTHS]
        self.channels: tuple[int, int, int] = (widths[2], widths[3], hidden)
        self.features, self._pools = _features(architecture, widths)
        self.fc6 = nn.Conv2d(widths[-1], hidden, 7)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout2d(0.5)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if weights is not None:
            self._load(architecture, without_prefix(read_state_dict(weights), "module."), weights)
        elif pretrained:
            self._load(architecture, _download(name), f"timm's {name}")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return pool3, pool4 and fc7, at strides 8, 16 and 32, for normalised B×3×H×W images.

        All of them include the padding, so scores of different levels are aligned by cropping.
        """
        levels = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self._pools[2:4]:
                levels.append(x)
        x = self.drop(self.relu(self.fc6(x)))
        x = self.drop(self.relu(self.fc7(x)))
        return levels[0], levels[1], x

    def _load(self, architecture: str, state: Mapping[str, Tensor], source: str) -> None:
        if self.fc7.in_channels == HIDDEN:
            load_start(self, as_convolutions(state), ("classifier.", "head."), architecture, source)
            return
        # hidden layers of another width are not loaded
        unused = ("classifier.", "head.", "pre_logits.")
        features = {key.removeprefix("features."): value for key, value in state.items()}
        load_start(self.features, features, unused, f"{architecture} (its features)", source)


def _features(architecture: str, widths: list[int]) -> tuple[nn.Sequential, tuple[int, ...]]:
    """Build the five blocks with torchvision's and timm's names; return them and their pooling layers' indices."""
    layers: list[nn.Module] = []
    pools = []
    previous = 3
    for depth, channels in zip(DEPTHS[architecture.removesuffix("_bn")], widths, strict=True):
        for _ in range(depth):
            layers.append(nn.Conv2d(previous, channels, 3, padding=1 if layers else PADDING))
            layers += [nn.BatchNorm2d(channels)] if architecture.endswith("_bn") else []
            layers.append(nn.ReLU(inplace=True))
            previous = channels
        pools.append(len(layers))
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return nn.Sequential(*layers), tuple(pools)


def as_convolutions(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a classification network's tensors to the names here, and reshape torchvision's linear layers."""
    names = {"pre_logits.fc1": "fc6", "pre_logits.fc2": "fc7", "classifier.0": "fc6", "classifier.3": "fc7"}
    renamed = {}
    for key, value in state.items():
        module, _, kind = key.rpartition(".")
        side = {"classifier.0": 7, "classifier.3": 1}.get(module)
        if side and value.dim() == 2 and value.shape[1] % side**2 == 0:
            value = value.reshape(len(value), -1, side, side)
        renamed[f"{names.get(module, module)}.{kind}"] = value
    return renamed


def _download(name: str) -> dict[str, Tensor]:
    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except Exception as error:  # timm has no exception of its own: the HTTP client's and others
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"backbone {name}: timm could not get its pretrained weights ({type(error).__name__}: {reason[:120]}); "
            f"set pretrained: false, or weights: FILE for a local file."
        ) from error


def _check_arguments(name: str, width: int, hidden: int, pretrained: bool, weights: str | None) -> str:
    """Check the arguments and return the architecture's name without a tag."""
    architecture = name.split(".")[0]
    if architecture.removesuffix("_bn") not in DEPTHS:
        raise ModelError(f"backbone = {name!r}: {', '.join(DEPTHS)}, or one of them with _bn, expected.")
    tags = timm.list_models(f"{architecture}.*", pretrained=True)
    if "." in name and name not in tags:
        raise ModelError(f"backbone = {name!r}: timm {timm.__version__} has no such weights; it has {', '.join(tags)}.")
    if width < 1:
        raise ModelError(f"width = {width}: at least one channel in the first block expected.")
    if hidden < 1:
        raise ModelError(f"channels = {hidden}: at least one in fc6 and fc7 expected.")
    if pretrained and weights is not None:
        raise ModelError("pretrained: true and weights: FILE exclude each other: give one of them.")
    if (pretrained or weights is not None) and width != WIDTHS[0]:
        raise ModelError(
            f"width = {width}: pretrained weights are for width: {WIDTHS[0]}; leave that or pretrained and weights out."
        )
    return architecture
