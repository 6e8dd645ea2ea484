"""The stem of two or three convolutions that replaces the 4×4 patches in robust ConvNeXts."""

from __future__ import annotations

from itertools import pairwise

from timm.layers.norm import LayerNorm2d
from torch import nn

from robustseg.models.errors import ModelError


class ConvStem(nn.Sequential):
    """3×3 convolutions, each followed by LayerNorm over the channels and GELU; stride 4 in all.

    Source: Singh et al., "Revisiting Adversarial Training for ImageNet", NeurIPS 2023; widths as in the
    authors' code (nmndeep/revisiting-at, ``utils_architecture.py``): half the width and the width for ConvNeXt-T and
    -S, and half, three quarters and the full width for the wider B and L; the third convolution has stride 1.

    Args:
        channels: Width of the first stage.

    Shape: B×3×H×W to B×channels×ceil(H/4)×ceil(W/4).
    """

    def __init__(self, channels: int) -> None:
        wide = channels >= 128
        widths = (3, channels // 2, 3 * channels // 4, channels) if wide else (3, channels // 2, channels)
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(pairwise(widths)):
            stride = 2 if index < 2 else 1
            layers += [nn.Conv2d(before, after, 3, stride, padding=1), LayerNorm2d(after, eps=1e-6), nn.GELU()]
        super().__init__(*layers)


def replace_stem(body: nn.Module, name: str) -> None:
    """Replace the 4×4 patches of timm's ConvNeXt feature extractor by a ConvStem.

    Raises:
        ModelError: ``body`` is not a ConvNeXt with patches of 4×4.
    """
    patches = getattr(body, "stem_0", None)
    if not (name.startswith("convnext") and isinstance(patches, nn.Conv2d) and patches.stride == (4, 4)):
        raise ModelError(f"backbone {name}: conv_stem is for ConvNeXts with patches of 4×4, such as convnext_tiny.")
    body.stem_0 = ConvStem(patches.out_channels)
    body.stem_1 = nn.Identity()
