"""PSPNet, DeepLabV3 and FCN over any timm backbone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from robustseg.models.backbone import Backbone
from robustseg.models.errors import ModelError
from robustseg.models.heads import DeepLabV3Head, FCNHead, PSPHead, check_kernel
from robustseg.models.network import Network


class EncoderDecoder(Network):
    """A head over the last feature level of a timm backbone, with an auxiliary head over the level before.

    Args:
        num_classes: Number of classes C.
        backbone: Any name in ``timm.list_models()``, with or without a pretrained tag.
        output_stride: Input pixels per feature cell: 8, 16 or 32; null for the backbone's own, if it cannot be dilated.
        channels: Width of the head; null for the paper's.
        aux_head: Add an auxiliary head for deep supervision (Zhao et al., CVPR 2017, section 3.3).
        dropout: Probability of dropping a channel value before the classifier, 0 <= dropout < 1.
        pretrained: Let timm download the backbone's weights.
        weights: Local file of weights for the backbone instead of a download (.pth, .pt or .safetensors).
        backbone_args: Further arguments of the timm architecture, such as ``channels`` for ResNets or
            ``img_size`` for ViTs.
        align_corners: Resize feature maps and logits with aligned corners, as hszhao/semseg does.
        first_block_dilated: Give the first block of a dilated stage the dilation of the others, as hszhao/semseg does.
        dilate_once: Dilate one convolution of a block of two, as mmsegmentation does; ResNet-18 and -34 only.
        aux_channels: Width of the auxiliary head; null for that of the head, but at most 256.
        aux_kernel: Size of the auxiliary head's convolution.

    Attributes:
        output_stride: Input pixels per cell of the last feature level.

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
        dilate_once: bool = False,
        aux_channels: int | None = None,
        aux_kernel: int = 3,
    ) -> None:
        super().__init__(num_classes)
        self.align_corners = align_corners
        self.first_block_dilated = first_block_dilated
        self.dilate_once = dilate_once
        self.aux_kernel = aux_kernel
        width = self.default_channels if channels is None else channels
        aux_width = min(width, 256) if aux_channels is None else aux_channels
        if width < 1:
            raise ModelError(f"channels = {channels}: a head needs at least one.")
        if aux_width < 1:
            raise ModelError(f"aux_channels = {aux_channels}: a head needs at least one.")
        check_kernel("aux_kernel", aux_kernel)
        if not 0.0 <= dropout < 1.0:
            raise ModelError(f"dropout = {dropout}: a probability in [0, 1) expected.")
        self.backbone = Backbone(
            backbone,
            output_stride,
            pretrained,
            weights,
            backbone_args,
            first_block_dilated=first_block_dilated,
            dilate_once=dilate_once,
        )
        self.output_stride = self.backbone.stride
        self.image_mean, self.image_std = self.backbone.mean, self.backbone.std
        second, last = self.backbone.channels
        self.head = self.make_head(last, width, dropout)
        self.aux_head = FCNHead(second, num_classes, aux_width, dropout, aux_kernel) if aux_head else None

    @abstractmethod
    def make_head(self, in_channels: int, channels: int, dropout: float) -> nn.Module:
        """Build the head.

        Args:
            in_channels: Channels of the backbone's last level, at stride ``self.backbone.stride``.
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
    """A pyramid scene parsing network (Zhao et al., CVPR 2017); see :class:`~robustseg.models.heads.PSPHead`."""

    default_channels = 512

    def make_head(self, in_channels: int, channels: int, dropout: float) -> nn.Module:
        """Build a PSPHead."""
        return PSPHead(in_channels, self.num_classes, channels, dropout, align_corners=self.align_corners)


class DeepLabV3(EncoderDecoder):
    """A DeepLabV3 (Chen et al., arXiv:1706.05587); see :class:`~robustseg.models.heads.DeepLabV3Head`.

    Args:
        num_classes: Number of classes C.
        backbone: Any name in ``timm.list_models()``, with or without a pretrained tag.
        output_stride: Input pixels per feature cell: 8, 16 or 32.
        channels: Width of the head.
        rates: Dilations of the pyramid in feature cells; null for the paper's: [12, 24, 36] at stride 8, and the same
            field of view at other strides.
        project_kernel: Size of the convolution over the pyramid: 1, or 3 as in mmsegmentation.
        refine: Put a 3×3 convolution before the classifier, as torchvision does and mmsegmentation and DDC-AT do not.
        kwargs: The other arguments of :class:`EncoderDecoder`.

    Raises:
        ModelError: An argument is out of range, or timm refuses the backbone, the stride or the weights.
    """

    default_channels = 256

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        output_stride: int | None = 8,
        channels: int | None = None,
        *,
        rates: Sequence[int] | None = None,
        project_kernel: int = 1,
        refine: bool = True,
        **kwargs: Any,
    ) -> None:
        # set before the base class builds the head, which reads them
        self.rates = None if rates is None else list(rates)
        self.project_kernel = project_kernel
        self.refine = refine
        super().__init__(num_classes, backbone, output_stride, channels, **kwargs)

    def make_head(self, in_channels: int, channels: int, dropout: float) -> nn.Module:
        """Build a DeepLabV3Head."""
        if self.rates is None:
            # (12, 24, 36) cells at stride 8 are (6, 12, 18) at stride 16: section 4.1 of the paper
            self.rates = [max(1, pixels // self.backbone.stride) for pixels in (96, 192, 288)]
        return DeepLabV3Head(
            in_channels, self.num_classes, channels, dropout, self.rates, self.project_kernel, self.refine
        )


class FCN(EncoderDecoder):
    """A fully convolutional network on dilated features (Long et al., CVPR 2015), like torchvision's ``fcn_resnet50``.

    Args:
        num_classes: Number of classes C.
        backbone: Any name in ``timm.list_models()``, with or without a pretrained tag.
        output_stride: Input pixels per feature cell: 8, 16 or 32.
        channels: Width of the head.
        convs: Number of convolutions before the classifier.
        concat_input: Combine their result and the features in one more convolution, as mmsegmentation does.
        kwargs: The other arguments of :class:`EncoderDecoder`.

    Raises:
        ModelError: An argument is out of range, or timm refuses the backbone, the stride or the weights.
    """

    default_channels = 512

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        output_stride: int | None = 8,
        channels: int | None = None,
        *,
        convs: int = 1,
        concat_input: bool = False,
        **kwargs: Any,
    ) -> None:
        # set before the base class builds the head, which reads them
        self.convs = convs
        self.concat_input = concat_input
        super().__init__(num_classes, backbone, output_stride, channels, **kwargs)

    def make_head(self, in_channels: int, channels: int, dropout: float) -> nn.Module:
        """Build an FCNHead."""
        return FCNHead(
            in_channels, self.num_classes, channels, dropout, convs=self.convs, concat_input=self.concat_input
        )
