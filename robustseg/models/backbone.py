"""timm backbones as feature extractors, with one clear error for anything that timm refuses."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from robustseg.models.checkpoints.classifiers import ClassifierWeights, classifier_weights
from robustseg.models.checkpoints.compare import by_module, compare, not_finite, shorten
from robustseg.models.checkpoints.read import read_state_dict
from robustseg.models.checkpoints.reading import sha256
from robustseg.models.conv_stem import replace_stem
from robustseg.models.errors import ModelError
from robustseg.models.network import IMAGENET_MEAN, IMAGENET_STD, RAW_MEAN, RAW_STD
from robustseg.models.starts import resized_positions, segmentation_hint, without_unused_projections

logger = logging.getLogger(__name__)

RESERVED = (
    *("features_only", "out_indices", "output_stride", "pretrained", "in_chans", "num_classes"),
    # files and addresses of weights: some releases of timm unpickle arbitrary objects from them
    *("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"),
)
"""Arguments of ``timm.create_model`` that the network sets itself: ``backbone_args`` may not hold them."""
WEIGHTS_KEY = "model.network.init_args.weights"
"""Setting that names a backbone's file, for messages."""
_POSITIONS = "pos.embed"
"""Name of a ViT's position embeddings, in the form of :func:`_canonical`."""


class Backbone(nn.Module):
    """The last feature levels of a timm network.

    Args:
        name: Any name in ``timm.list_models()``, with or without a pretrained tag.
        output_stride: Input pixels per cell of the last level; below 32 the last stages are dilated
            (Chen et al., "DeepLab", TPAMI 2018, section 3.1). None keeps the architecture's own.
        pretrained: Let timm download the weights.
        weights: Local file of a classifier's weights for this backbone, from timm, torchvision or a project of robust
            ImageNet classifiers (:data:`robustseg.models.checkpoints.classifiers.LAYOUTS`); the classifier itself is
            left out, and a normalisation in the file replaces timm's.
        args: Further arguments of the timm architecture.
        levels: Number of feature levels.
        first_block_dilated: Give the first block of a dilated stage the dilation of its other blocks, as hszhao/semseg
            does; torchvision, timm and mmsegmentation give it the dilation of the stage before. ResNets only.
        dilate_once: Dilate only the first of the two convolutions of a block, as mmsegmentation does; timm dilates
            both. Only for ResNets with blocks of two convolutions (ResNet-18 and -34).
        conv_stem: Replace the 4×4 patches at the input by 3×3 convolutions, see
            :class:`~robustseg.models.conv_stem.ConvStem`. ConvNeXts only.
        raw_images: Take images in [0, 1] without normalisation. Weights with another normalisation in their file are
            refused.
        last_norm: Keep the LayerNorm behind the last block as ``norm``, with the file's weights for it; timm drops it
            from feature extractors. ViTs only.

    Attributes:
        channels: Channels of each level.
        strides: Input pixels per cell of each level.
        stride: Input pixels per cell of the last level.
        mean: Per-channel mean of the images that the weights were trained on, in units of [0, 1]: the one of
            ``raw_images`` or of the file of ``weights``, otherwise the one of timm's weights of this name.
        std: Per-channel standard deviation of these images, in units of [0, 1].

    Raises:
        ModelError: The name is unknown, or timm refuses the stride, the arguments or the weights.
    """

    def __init__(
        self,
        name: str,
        output_stride: int | None = None,
        pretrained: bool = False,
        weights: str | None = None,
        args: Mapping[str, Any] | None = None,
        levels: int = 2,
        first_block_dilated: bool = False,
        dilate_once: bool = False,
        conv_stem: bool = False,
        raw_images: bool = False,
        last_norm: bool = False,
    ) -> None:
        super().__init__()
        args = dict(args or {})
        _check_arguments(name, output_stride, pretrained, weights, args)
        self.body = _create(name, output_stride, pretrained, args, levels)
        self.channels: tuple[int, ...] = tuple(self.body.feature_info.channels())
        self.strides: tuple[int, ...] = tuple(self.body.feature_info.reduction())
        self.stride: int = self.strides[-1]
        _check_built(name, output_stride, self, args)
        # Swin and similar networks return B×h×w×C
        self._channels_last = getattr(getattr(self.body, "output_fmt", None), "value", None) == "NHWC"
        config = get_pretrained_cfg(name)
        self.mean: tuple[float, ...] = tuple(config.mean) if config else IMAGENET_MEAN
        self.std: tuple[float, ...] = tuple(config.std) if config else IMAGENET_STD
        if first_block_dilated:
            _dilate_first_blocks(self.body, name)
        if dilate_once:
            _dilate_once(self.body, name)
        if conv_stem:
            replace_stem(self.body, name)
        if raw_images:
            self.mean, self.std = RAW_MEAN, RAW_STD
        if last_norm:
            self.norm = nn.LayerNorm(self.channels[-1])
        if weights is not None:
            _load(self, name, args, weights, raw_images)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the levels, B×channels×h×w each, from fine to coarse, for normalised B×3×H×W images."""
        features = self.body(x)
        if self._channels_last:
            features = [level.permute(0, 3, 1, 2) for level in features]
        return tuple(features)


def _check_arguments(
    name: str, output_stride: int | None, pretrained: bool, weights: str | None, args: dict[str, Any]
) -> None:
    if not timm.is_model(name) or "/" in name:
        raise ModelError(f"backbone {name!r} is unknown to timm {timm.__version__}{_suggest(name, timm.list_models())}")
    tags = timm.list_models(name.split(".")[0] + ".*", pretrained=True)
    if "." in name and name not in tags:
        raise ModelError(f"backbone {name!r}: timm {timm.__version__} has no such weights{_suggest(name, tags)}")
    if output_stride not in (None, 8, 16, 32):
        raise ModelError(f"output_stride = {output_stride}: 8, 16, 32 or null (as the backbone has it) expected.")
    if pretrained and weights is not None:
        raise ModelError("pretrained: true and weights: FILE exclude each other: give one of them.")
    reserved = [key for key in RESERVED if key in args]
    if reserved:
        raise ModelError(f"backbone_args may not hold {', '.join(reserved)}: the network sets it.")


def _suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=4, cutoff=0.6)
    return f"; did you mean {', '.join(close)}?" if close else "."


def _timm(name: str, output_stride: int | None, pretrained: bool, args: dict[str, Any], levels: int = 2) -> Any:
    stride: dict[str, Any] = {} if output_stride is None else {"output_stride": output_stride}
    indices = tuple(range(-levels, 0))
    return timm.create_model(name, pretrained=pretrained, features_only=True, out_indices=indices, **stride, **args)


def _create(name: str, output_stride: int | None, pretrained: bool, args: dict[str, Any], levels: int) -> Any:
    try:
        return _timm(name, output_stride, pretrained, args, levels)
    except Exception as error:  # timm has no exception class of its own: bare asserts, TypeErrors, the HTTP client's
        raise ModelError(_diagnose(error, name, output_stride, pretrained, args)) from error


def _diagnose(error: Exception, name: str, output_stride: int | None, pretrained: bool, args: dict[str, Any]) -> str:
    """Find the argument that timm refuses, by leaving them out one by one: timm's own message rarely names it."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if pretrained and _works(name, output_stride, args):
        return (
            f"backbone {name}: timm could not get its pretrained weights ({type(error).__name__}: {reason[:120]}); "
            f"set pretrained: false, or weights: FILE for a local file."
        )
    if output_stride is not None and _works(name, None, args):
        native = _timm(name, None, False, args).feature_info.reduction()[-1]
        return (
            f"backbone {name} does not support output_stride: {output_stride}; set output_stride: null for its own "
            f"stride of {native}, or take a backbone that can be dilated, such as resnet50 or convnext_tiny."
        )
    if args and (_works(name, output_stride, {}) or _works(name, None, {})):
        return f"backbone {name} refuses backbone_args {args}: {reason}"
    return f"backbone {name} cannot be built as a feature extractor: {type(error).__name__}: {reason}"


def _works(name: str, output_stride: int | None, args: dict[str, Any]) -> bool:
    try:
        _timm(name, output_stride, False, args)
    except Exception:  # see _create
        return False
    return True


def _dilate_first_blocks(body: nn.Module, name: str) -> None:
    stages = [getattr(body, stage, None) for stage in ("layer2", "layer3", "layer4")]
    if not all(isinstance(stage, nn.Sequential) and len(stage) > 1 for stage in stages):
        raise ModelError(f"backbone {name}: first_block_dilated is for ResNets of at least two blocks a stage.")
    for first, second, *_ in stages:  # type: ignore[misc]
        for own, model in zip(first.modules(), second.modules(), strict=False):
            if isinstance(own, nn.Conv2d) and isinstance(model, nn.Conv2d) and own.kernel_size == (3, 3):
                own.dilation, own.padding = model.dilation, model.padding


def _dilate_once(body: nn.Module, name: str) -> None:
    blocks = [block for stage in ("layer3", "layer4") for block in getattr(body, stage, ())]
    second = [getattr(block, "conv2", None) for block in blocks if not hasattr(block, "conv3")]
    if not blocks or not all(isinstance(conv, nn.Conv2d) for conv in second) or len(second) < len(blocks):
        raise ModelError(f"backbone {name}: dilate_once is for ResNets with blocks of two convolutions (resnet18).")
    for conv in second:
        conv.dilation, conv.padding = (1, 1), (1, 1)  # type: ignore[union-attr]


def _check_built(name: str, output_stride: int | None, backbone: Backbone, args: dict[str, Any]) -> None:
    if output_stride is not None and backbone.stride != output_stride:
        raise ModelError(
            f"backbone {name} ignores output_stride: {output_stride}, its stride is {backbone.stride}: "
            f"set output_stride: null."
        )
    fixed = any(getattr(module, "strict_img_size", False) for module in backbone.body.modules())
    if fixed and "img_size" not in args:
        raise ModelError(
            f"backbone {name} takes images of one size only: set backbone_args: {{img_size: [H, W]}} or, for a ViT, "
            f"{{dynamic_img_size: true, dynamic_img_pad: true}}."
        )


def _load(backbone: Backbone, name: str, args: dict[str, Any], path: str | Path, raw_images: bool) -> None:
    """Load a classification network's weights into the feature extractor made from it.

    Names of other projects become timm's (:mod:`robustseg.models.checkpoints.classifiers`). timm in turn renames the
    modules of a feature extractor (``stages.0`` becomes ``stages_0``, ViTs get the prefix ``model.``), so keys are
    compared with dots and underscores treated as equal. Keys of the whole network that the features do not use, such as
    its classifier, may be present; any others may not. A normalisation in the file becomes the backbone's. The position
    embeddings of a ViT are resized.

    Raises:
        ModelError: The file does not hold this backbone's weights, or they were trained with a normalisation that
            contradicts ``raw_images``.
    """
    state = read_state_dict(path, WEIGHTS_KEY)
    try:
        weights = classifier_weights(state)
    except ModelError as error:
        raise ModelError(f"{path}: {error}.") from error
    read_as = f" (read as {weights.layout})" if weights.layout else ""
    _check_normalisation(weights, raw_images, f"{path}{read_as}")
    own = backbone.body.state_dict()
    names = {_canonical(key.removeprefix("model.")): key for key in own}
    found = {_canonical(key): value for key, value in without_unused_projections(weights.state).items()}
    found = resized_positions(backbone.body, found, _POSITIONS, path)
    whole = {_canonical(key) for key in timm.create_model(name, pretrained=False, **args).state_dict()}
    # absent from files older than PyTorch 0.4.1; BatchNorm with a momentum does not use them
    counters = {key: own[names[key]] for key in names if key.endswith("num.batches.tracked") and key not in found}
    used = {key: value for key, value in found.items() if key in names or key not in whole} | counters
    if mismatch := compare({key: own[names[key]] for key in names}, used):
        logger.info("%s does not fit backbone %s.\n%s", path, name, mismatch.report())
        hint = "; set conv_stem: true" if "stem.0.0.weight" in found.keys() - names.keys() else ""
        hint = hint or segmentation_hint(state)
        raise ModelError(f"{path}{read_as} does not hold the weights of backbone {name}: {mismatch}{hint}.")
    if broken := not_finite({names[key]: value for key, value in used.items()}):
        raise ModelError(f"{path} holds values that are not finite ({by_module(broken)}): take another checkpoint.")
    with torch.no_grad():
        backbone.body.load_state_dict({names[key]: value for key, value in used.items()}, strict=True)
    if hasattr(backbone, "norm") and {"norm.weight", "norm.bias"} <= weights.state.keys():
        backbone.norm.load_state_dict({key: weights.state[f"norm.{key}"] for key in ("weight", "bias")})
    if weights.mean is not None and weights.std is not None:
        backbone.mean, backbone.std = weights.mean, weights.std
    dropped = sorted(found.keys() - used.keys())
    source = "the file's" if weights.mean is not None else "those of raw_images: true" if raw_images else ""
    logger.info(
        "%s%s, SHA-256 %s: backbone %s; left out %s, which its features do not use; images are normalised by mean %s, "
        "std %s%s",
        *(path, read_as, sha256(path), name, shorten(dropped) or "nothing"),
        *(list(backbone.mean), list(backbone.std), f", which are {source}" if source else ""),
    )


def _check_normalisation(weights: ClassifierWeights, raw_images: bool, source: str) -> None:
    if raw_images and weights.mean is not None and (weights.mean, weights.std) != (RAW_MEAN, RAW_STD):
        raise ModelError(
            f"raw_images = true, and {source} was trained on images normalised by mean {list(weights.mean)}, std "
            f"{list(weights.std or ())}, as it says itself: set raw_images: false."
        )


def _canonical(key: str) -> str:
    return key.replace("_", ".")
