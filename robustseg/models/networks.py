"""PSPNet, DeepLabV3 and FCN over any timm backbone."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from robustseg.models.backbone import Backbone
from robustseg.models.errors import ModelError
from robustseg.models.heads import DeepLabV3Head, FCNHead, PSPHead
from robustseg.models.network import Network


class EncoderDecoder(Network):
    """A head over the last feature level of a timm backbone, with an auxiliary head over the level before.

    Args:
        num_classes: C.
        backbone: Any name in ``timm.list_models()``, with or without a pretrained tag.
        output_stride: Input pixels per feature cell: 8, 16 or 32; null: as the backbone has it, for those that
            cannot be dilated.
        channels: Width of the head; null: the paper's. The auxiliary head is as wide, but at most 256.
        aux_head: Add an auxiliary head for deep supervision (Zhao et al., CVPR 2017, section 3.3).
        dropout: Probability of dropping a channel value before the classifier, 0 <= dropout < 1.
        pretrained: Let timm download the backbone's weights.
        weights: Local file of weights for the backbone instead (.pth, .pt or .safetensors).
        backbone_args: Further arguments of the timm architecture, such as ``channels`` for ResNets or
            ``img_size`` for ViTs.
        align_corners: Resize feature maps and logits with the corners' centres kept in place, as hszhao/semseg does.
        first_block_dilated: Dilate the first block of a dilated stage as the others, as hszhao/semseg does.

    Raises:
        ModelError: An argument is out of range, or timm refuses the backbone, the stride or the weights.
    """

    default_channels: ClassVar[int]

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        output_stride: int | None = 8,
        channels: int | None = None,
        aux_head: bool = True,
        dropout: float = 0.1,
        pretrained: bool = False,
        weights: str | None = None,
        backbone_args: dict[str, Any] | None = None,
        align_corners: bool = False,
        first_block_dilated: bool = False,
    ) -> None:
        super().__init__(num_classes)
        self.align_corners = align_corners
        self.first_block_dilated = first_block_dilated
        width = self.default_channels if channels is None else channels
        if width < 1:
            raise ModelError(f"channels = {channels}: a head needs at least one.")
        if not 0.0 <= dropout < 1.0:
            raise ModelError(f"dropout = {dropout}: a probability in [0, 1) expected.")
        self.backbone = Backbone(
            backbone, output_stride, pretrained, weights, backbone_args, first_block_dilated=first_block_dilated
        )
        self.image_mean, self.image_std = self.backbone.mean, self.backbone.std
        aux_channels, in_channels = self.backbone.channels
        self.head = self.make_head(in_channels, width, dropout)
        self.aux_head = FCNHead(aux_channels, num_classes, min(width, 256), dropout) if aux_head else None

    @abstractmethod
    def make_head(self, in_channels: int, channels: int, dropout: float) -> nn.Module:
        """Build the head.

        Args:
            in_channels: Channels of the backbone's last level, whose stride is ``self.backbone.stride``.
            channels: Width of the head.
            dropout: Probability of dropping a channel value before the classifier.

        Returns:
            A module from B×in_channels×h×w features to B×C×h×w logits.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Return B×C×h×w logits at the resolution of the features, for normalised B×3×H×W images."""
        logits: Tensor = self.head(self.backbone(x)[1])
        return logits

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits and the auxiliary head's, or None without one; see :meth:`Network.forward_with_aux`."""
        second, last = self.backbone(x)
        return self.head(last), None if self.aux_head is None else self.aux_head(second)


class PSPNet(EncoderDecoder):
    """Pyramid scene parsing network (Zhao et al., CVPR 2017); see :class:`~robustseg.models.heads.PSPHead`."""

    default_channels = 512

    def make_head(self, in_channels: int, channels: int, dropout: float) -> nn.Module:
        """Build a PSPHead."""
        return PSPHead(in_channels, self.num_classes, channels, dropout, align_corners=self.align_corners)


class DeepLabV3(EncoderDecoder):
    """Atrous spatial pyramid pooling (Chen et al., 2017); see :class:`~robustseg.models.heads.DeepLabV3Head`."""

    default_channels = 256

    def make_head(self, in_channels: int, channels: int, dropout: float) -> nn.Module:
        """Build a DeepLabV3Head whose rates cover the same field of view at every stride."""
        # (12, 24, 36) cells at stride 8 are (6, 12, 18) at stride 16: section 4.1 of the paper
        rates = [max(1, pixels // self.backbone.stride) for pixels in (96, 192, 288)]
        return DeepLabV3Head(in_channels, self.num_classes, channels, dropout, rates)


class FCN(EncoderDecoder):
    """Fully convolutional network on dilated features (Long et al., CVPR 2015), as torchvision's ``fcn_resnet50``."""

    default_channels = 512

    def make_head(self, in_channels: int, channels: int, dropout: float) -> nn.Module:
        """Build an FCNHead."""
        return FCNHead(in_channels, self.num_classes, channels, dropout)
