"""FCN-32s, FCN-16s and FCN-8s over VGG, the first fully convolutional networks."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from robustseg.models.errors import ModelError
from robustseg.models.network import Network
from robustseg.models.upsampling import bilinear_upsampling
from robustseg.models.vgg import HIDDEN, ConvVGG

CAFFE_MEAN: tuple[float, ...] = (122.67891434 / 255, 116.66876762 / 255, 104.00698793 / 255)
"""RGB mean of the images that Caffe's VGG was trained on, for images in [0, 1]."""
CAFFE_STD: tuple[float, ...] = (1 / 255, 1 / 255, 1 / 255)
"""Standard deviation of 1 in images of 0 to 255: Caffe's VGG does not divide by one."""

Normalisation = Literal["imagenet", "caffe"]


class FCN32s(Network):
    """A fully convolutional VGG with scores at stride 32, interpolated to the image's size in one step.

    Source: Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, section 4; Shelhamer et
    al., TPAMI 2017; layer by layer as in wkentaro/pytorch-fcn, also with zeros as initial score layers.

    Args:
        num_classes: Number of classes C.
        backbone: ``vgg11``, ``vgg13``, ``vgg16`` (the paper's) or ``vgg19``, with ``_bn`` for BatchNorm, and with or
            without a pretrained tag of timm's.
        channels: Width of fc6 and fc7. At 4096 they start from the pretrained network's weights, as in the paper; at
            any other width they start at random.
        width: Channels of the first block; the others are in proportion. 64 for pretrained weights.
        pretrained: Let timm download the backbone's weights.
        weights: Local file of weights for the backbone instead of a download (.pth, .pt or .safetensors), with
            torchvision's or timm's names.
        normalisation: Normalisation of the images that the weights were trained with. ``imagenet``: RGB in [0, 1] with
            ImageNet's mean and standard deviation, for the weights of timm and torchvision. ``caffe``: BGR of 0 to 255
            minus Caffe's mean, for those of the paper, of pytorch-fcn and of ``vgg16_from_caffe.pth``.
        learned_upsampling: Train the kernels of the transposed convolutions, which begin as bilinear interpolation; the
            paper's code and pytorch-fcn keep them fixed.

    Raises:
        ModelError: An argument is out of range, two of them contradict each other, or the weights do not fit.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "vgg16",
        channels: int = HIDDEN,
        width: int = 64,
        pretrained: bool = False,
        weights: str | None = None,
        normalisation: Normalisation = "imagenet",
        learned_upsampling: bool = False,
    ) -> None:
        super().__init__(num_classes)
        if normalisation not in ("imagenet", "caffe"):
            raise ModelError(f"normalisation = {normalisation!r}: imagenet or caffe expected.")
        if pretrained and normalisation == "caffe":
            raise ModelError(
                "normalisation = 'caffe': timm's weights were trained with ImageNet's; set normalisation: imagenet, or "
                "pretrained: false and weights: FILE with Caffe's."
            )
        self.normalisation: Normalisation = normalisation
        self.learned_upsampling = learned_upsampling
        self.backbone = ConvVGG(backbone, width, channels, pretrained, weights)
        self.image_mean, self.image_std = self.backbone.mean, self.backbone.std
        if normalisation == "caffe":
            self.image_mean, self.image_std, self.channel_order = CAFFE_MEAN, CAFFE_STD, "bgr"
        self.score_fr = self._score(channels)
        self._build_decoder()

    def forward(self, x: Tensor) -> Tensor:
        """Return B×C×H×W logits for normalised B×3×H×W images."""
        pool3, pool4, fc7 = self.backbone(x)
        return self._decode(pool3, pool4, self.score_fr(fc7), x)

    def _build_decoder(self) -> None:
        self.upscore = self._upsampling(32)

    def _decode(self, pool3: Tensor, pool4: Tensor, scores: Tensor, x: Tensor) -> Tensor:
        """Bring the scores at stride 32 to the image's size."""
        return _cut(self.upscore(scores), 19, x)

    def _score(self, in_channels: int) -> nn.Conv2d:
        layer = nn.Conv2d(in_channels, self.num_classes, 1)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        return layer

    def _upsampling(self, factor: int) -> nn.ConvTranspose2d:
        return bilinear_upsampling(self.num_classes, factor, learned=self.learned_upsampling)


class FCN16s(FCN32s):
    """An FCN-32s with the scores of pool4 added at stride 16; see :class:`FCN32s` for arguments and source."""

    def _build_decoder(self) -> None:
        self.score_pool4 = self._score(self.backbone.channels[1])
        self.upscore2 = self._upsampling(2)
        self.upscore16 = self._upsampling(16)

    def _decode(self, pool3: Tensor, pool4: Tensor, scores: Tensor, x: Tensor) -> Tensor:
        scores = self.upscore2(scores)
        scores = scores + _cut(self.score_pool4(pool4), 5, scores)
        return _cut(self.upscore16(scores), 27, x)


class FCN8s(FCN32s):
    """An FCN-32s with the scores of pool4 added at stride 16 and those of pool3 at stride 8.

    See :class:`FCN32s` for the source and the other arguments.

    Args:
        at_once: Multiply pool4 by 0.01 and pool3 by 0.0001 before they are scored, as FCN-8s-at-once does. That network
            is trained in one go, while the paper's FCN-8s starts from a trained FCN-16s (Shelhamer et al., TPAMI 2017).
            The published factors are for Caffe's normalisation. A checkpoint does not show this setting.

    Raises:
        ModelError: An argument is out of range, two of them contradict each other, or the weights do not fit.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "vgg16",
        channels: int = HIDDEN,
        width: int = 64,
        pretrained: bool = False,
        weights: str | None = None,
        normalisation: Normalisation = "imagenet",
        learned_upsampling: bool = False,
        at_once: bool = False,
    ) -> None:
        super().__init__(num_classes, backbone, channels, width, pretrained, weights, normalisation, learned_upsampling)
        self.at_once = at_once

    def _build_decoder(self) -> None:
        self.score_pool4 = self._score(self.backbone.channels[1])
        self.score_pool3 = self._score(self.backbone.channels[0])
        self.upscore2 = self._upsampling(2)
        self.upscore_pool4 = self._upsampling(2)
        self.upscore8 = self._upsampling(8)

    def _decode(self, pool3: Tensor, pool4: Tensor, scores: Tensor, x: Tensor) -> Tensor:
        if self.at_once:
            pool3, pool4 = pool3 * 0.0001, pool4 * 0.01
        scores = self.upscore2(scores)
        scores = self.upscore_pool4(scores + _cut(self.score_pool4(pool4), 5, scores))
        scores = scores + _cut(self.score_pool3(pool3), 9, scores)
        return _cut(self.upscore8(scores), 31, x)


def _cut(scores: Tensor, offset: int, like: Tensor) -> Tensor:
    """Cut the part over ``like`` out of the scores, which cover the padding as well."""
    height, width = like.shape[-2:]
    return scores[..., offset : offset + height, offset : offset + width]
