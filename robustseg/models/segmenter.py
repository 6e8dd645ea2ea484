"""Segmenter: a plain vision transformer with a mask transformer as head."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import timm
import torch
from timm.models import model_entrypoint
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from robustseg.models.backbone import Backbone
from robustseg.models.errors import ModelError
from robustseg.models.network import Network
from robustseg.numerics.resampling import resize, spread

HEAD_EPS = 1e-5
"""The eps of every LayerNorm in the mask transformer: PyTorch's default, in all projects that have one."""


PLAIN_VITS = ("timm.models.vision_transformer", "timm.models.deit")
"""Modules of timm that define plain ViTs: their tokens have the same shape from the first block to the last."""


class ViTBackbone(Backbone):
    """A plain timm ViT that returns its patch tokens after the last LayerNorm, for any multiple of the patch size.

    Args:
        name: A ViT with a class token and learned position embeddings, such as ``vit_small_patch16_224``.
        pretrained: Let timm download the weights.
        weights: Local file of weights instead of a download; its classifier is left out.
        args: Further arguments of the timm architecture; ``img_size`` is the size for the position embeddings.
        norm_eps: The eps of every LayerNorm, added to the variance.
        position_resize: Interpolation of the position embeddings for other image sizes.
        raw_images: Take images in [0, 1] without normalisation, see :class:`~robustseg.models.backbone.Backbone`.

    Attributes:
        patch_size: Height and width of a patch in pixels.

    Raises:
        ModelError: The backbone is no such ViT, or timm refuses the arguments or the weights.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        weights: str | None = None,
        args: Mapping[str, Any] | None = None,
        norm_eps: float = HEAD_EPS,
        position_resize: Literal["bilinear", "bicubic"] = "bilinear",
        raw_images: bool = False,
    ) -> None:
        if timm.is_model(name) and model_entrypoint(name).__module__ not in PLAIN_VITS:
            raise ModelError(_refusal(name))
        args = {"dynamic_img_size": True, **(args or {})}
        super().__init__(name, None, pretrained, weights, args, levels=1, raw_images=raw_images, last_norm=True)
        vit = getattr(self.body, "model", None)
        if (
            not isinstance(vit, VisionTransformer)
            or vit.pos_embed is None
            or vit.pos_embed.shape[1] != 1 + vit.patch_embed.num_patches
        ):
            raise ModelError(_refusal(name))
        self.patch_size: tuple[int, int] = vit.patch_embed.patch_size
        self.position_resize = position_resize
        if pretrained:
            # from timm's cache, since the backbone's weights were downloaded just before
            whole: Any = timm.create_model(name, pretrained=True, num_classes=0, **args)
            self.norm.load_state_dict(whole.norm.state_dict())
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = norm_eps

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the patch tokens as one level, B×D×h×w, for normalised images with sides that patches divide."""
        vit = self.body.model
        patches = vit.patch_embed.proj(x)
        grid = patches.shape[-2:]
        tokens = torch.cat([vit.cls_token.expand(len(x), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = vit.blocks(vit.norm_pre(vit.pos_drop(tokens + self._positions(grid))))
        return (self.norm(tokens)[:, 1:].transpose(1, 2).reshape(patches.shape),)

    def _positions(self, grid: torch.Size) -> Tensor:
        vit = self.body.model
        positions: Tensor = vit.pos_embed
        # compared by number, not by shape, as in the reference: 16×64 patches get the embeddings of 32×32, row by row
        if grid.numel() == vit.patch_embed.num_patches:
            return positions
        own = positions[:, 1:].transpose(1, 2).reshape(1, -1, *vit.patch_embed.grid_size)
        # not timm's own resizing, which is bicubic with antialiasing
        resized = spread(own, grid, cubic=self.position_resize == "bicubic")
        return torch.cat([positions[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


def _refusal(name: str) -> str:
    return (
        f"backbone {name}: Segmenter is for plain ViTs with one class token and learned position embeddings, such as "
        f"vit_small_patch16_224."
    )


class MaskTransformer(nn.Module):
    """A transformer over patches and one token per class; the logits are their products, normalised per pixel.

    Source: Strudel et al., "Segmenter", ICCV 2021, section 3.2; layer by layer as in rstrudel/segmenter
    (``decoder.py``).

    Args:
        in_channels: Channels of the patches, and width of the transformer.
        num_classes: Number of classes C, at least 2.
        layers: Number of blocks.
        dropout: Probability of dropping a value in attention and MLPs.

    Shape: B×in_channels×h×w to B×C×h×w.
    """

    def __init__(self, in_channels: int, num_classes: int, layers: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        block = partial(Block, qkv_bias=True, proj_drop=dropout, attn_drop=dropout)
        norm: Any = partial(nn.LayerNorm, eps=HEAD_EPS)
        heads = max(1, in_channels // 64)
        self.class_tokens = nn.Parameter(torch.empty(1, num_classes, in_channels))
        self.project = nn.Linear(in_channels, in_channels)
        self.blocks = nn.Sequential(*(block(in_channels, heads, norm_layer=norm) for _ in range(layers)))
        self.norm = norm(in_channels)
        self.project_patches = nn.Linear(in_channels, in_channels, bias=False)
        self.project_classes = nn.Linear(in_channels, in_channels, bias=False)
        self.logit_norm = norm(num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.class_tokens, std=0.02)
        for projection in (self.project_patches, self.project_classes):
            nn.init.normal_(projection.weight, std=projection.in_features**-0.5)

    def forward(self, features: Tensor) -> Tensor:
        """Return B×C×h×w logits for B×in_channels×h×w features."""
        patches = self.project(features.flatten(2).transpose(1, 2))
        tokens = self.norm(self.blocks(torch.cat([patches, self.class_tokens.expand(len(features), -1, -1)], dim=1)))
        count = patches.shape[1]
        patches = F.normalize(self.project_patches(tokens[:, :count]), dim=-1)
        classes = F.normalize(self.project_classes(tokens[:, count:]), dim=-1)
        logits: Tensor = self.logit_norm(patches @ classes.transpose(1, 2)).transpose(1, 2)
        return logits.reshape(*logits.shape[:2], *features.shape[-2:])


class Segmenter(Network):
    """A Segmenter, by default over ViT-S/16 as in rstrudel/segmenter and PIR-AT; see :class:`MaskTransformer`.

    Images are padded with zeros, at the right and at the bottom, to multiples of the patch size.

    Args:
        num_classes: Number of classes C, at least 2.
        backbone: A ViT of timm with a class token and learned position embeddings.
        layers: Number of blocks of the mask transformer.
        dropout: Probability of dropping a value in the mask transformer, 0 <= dropout < 1.
        norm_eps: The eps of every LayerNorm in the backbone, added to the variance: 1e-5 in rstrudel/segmenter, 1e-6 in
            timm and mmsegmentation.
        raw_images: Take images in [0, 1] without normalisation, as PIR-AT does.
        position_resize: Interpolation of the position embeddings for other image sizes: ``bilinear``, or ``bicubic`` as
            in mmsegmentation.
        crop_padding: Cut off the logits of the padding, as rstrudel/segmenter does. False resizes all logits to the
            image, as mmsegmentation does, which shifts the patches slightly if there is padding.
        pretrained: Let timm download the backbone's weights.
        weights: Local file of weights for the backbone instead of a download (.pth, .pt or .safetensors).
        backbone_args: Further arguments of the timm architecture: ``img_size``, the size for the position embeddings,
            or ``drop_path_rate``.

    Raises:
        ModelError: An argument is out of range, or timm refuses the backbone or the weights.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "vit_small_patch16_224",
        layers: int = 2,
        dropout: float = 0.1,
        norm_eps: float = 1e-5,
        raw_images: bool = False,
        position_resize: Literal["bilinear", "bicubic"] = "bilinear",
        crop_padding: bool = True,
        pretrained: bool = False,
        weights: str | None = None,
        backbone_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(num_classes)
        if num_classes < 2:
            raise ModelError(f"num_classes = {num_classes}: Segmenter normalises over the classes and needs two.")
        if layers < 1:
            raise ModelError(f"layers = {layers}: a mask transformer needs at least one.")
        if not 0.0 <= dropout < 1.0:
            raise ModelError(f"dropout = {dropout}: a probability in [0, 1) expected.")
        if not 0.0 < norm_eps < 1.0:
            raise ModelError(f"norm_eps = {norm_eps}: a small positive number such as 1e-5 expected.")
        if position_resize not in ("bilinear", "bicubic"):
            raise ModelError(f"position_resize = {position_resize}: bilinear or bicubic expected.")
        self.norm_eps = norm_eps
        self.position_resize = position_resize
        self.crop_padding = crop_padding
        self.backbone = ViTBackbone(backbone, pretrained, weights, backbone_args, norm_eps, position_resize, raw_images)
        self.image_mean, self.image_std = self.backbone.mean, self.backbone.std
        self.head = MaskTransformer(self.backbone.channels[0], num_classes, layers, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of normalised B×3×H×W images.

        Returns:
            B×C×h×w logits, one per patch, or B×C×H×W where padding was cut off.
        """
        height, width = x.shape[-2:]
        down, right = (-side % patch for side, patch in zip((height, width), self.backbone.patch_size, strict=True))
        padded = F.pad(x, (0, right, 0, down))
        logits: Tensor = self.head(self.backbone(padded)[0])
        if not self.crop_padding or (not down and not right):
            return logits
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()  # see SegmentationModel
        logits = resize(logits, padded.shape[-2:])
        return logits[..., :height, :width]
