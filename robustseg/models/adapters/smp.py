"""Networks of segmentation_models_pytorch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import timm
from torch import Tensor, nn
from torch.nn import functional as F

from robustseg.models.adapters.library import (
    check_known,
    check_reserved,
    define_for_one,
    import_library,
    reason,
)
from robustseg.models.backbone import RESERVED as TIMM_RESERVED
from robustseg.models.errors import ModelError
from robustseg.models.network import IMAGENET_MEAN, IMAGENET_STD, ChannelOrder, Network
from robustseg.models.unused import freeze_unused

_RESERVED = {
    "activation": "logits are needed, and an activation makes something else of them",
    "aux_params": "it adds a classifier of whole images, for which there are no targets",
    "in_channels": "images have three channels",
    "classes": "it is num_classes",
    "arch": "it is an argument of the network",
    "encoder_name": "it is an argument of the network",
    "encoder_weights": "set pretrained: true, or model.init_weights: FILE for a local file",
    # the library passes arguments that it does not know on to timm
    **dict.fromkeys(TIMM_RESERVED, "the network sets it"),
}
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_NORMALISATIONS: tuple[tuple[str, tuple[tuple[float, ...], tuple[float, ...]]], ...] = (
    ("inception", _HALF),
    ("xception", _HALF),
    ("timm-tf_efficientnet_lite", _HALF),
    ("dpn", ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3)),
)
"""Normalisations of the library's own encoders that differ from ImageNet's, by the beginning of their names."""


class SMPNetwork(Network):
    """A network of segmentation_models_pytorch; the library's checkpoints load unchanged.

    Most networks need sides that are multiples of 32. Images with other sides are padded at the right and the bottom
    with the mean colour, and the logits are cropped. The normalisation is that of the library's
    ``get_preprocessing_params`` for the encoder's ImageNet weights. Without ``pretrained``, known values are used
    instead of a call that may download. Checkpoints that were trained with another normalisation need ``model.mean``
    and ``model.std``.

    Args:
        num_classes: Number of classes C.
        arch: Name of a class of the library, such as ``Unet``, ``FPN`` or ``DeepLabV3Plus``.
        encoder_name: Name of one of its encoders, or ``tu-`` and the name of a timm network.
        pretrained: Let the library download the encoder's ImageNet weights.
        args: Further arguments of the class, such as ``decoder_channels``.

    Raises:
        ModelError: The library is not installed, refuses an argument or cannot download; or ``args`` would replace the
            logits by another output, or load files.
    """

    library = "segmentation_models_pytorch"

    def __init__(
        self,
        num_classes: int,
        arch: str = "Unet",
        encoder_name: str = "resnet34",
        pretrained: bool = False,
        args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(num_classes)
        args = dict(args or {})
        smp = import_library("segmentation_models_pytorch", "segmentation-models-pytorch", type(self).__name__)
        architectures = {cls.__name__: cls for cls in smp.MODEL_ARCHITECTURES_MAPPING.values()}
        check_known("arch", arch, architectures, "segmentation_models_pytorch")
        _check_encoder(smp, encoder_name)
        check_reserved(args, _RESERVED)
        if not encoder_name.startswith("tu-"):  # arguments for timm's encoders go to timm; others ignore unknown ones
            known = set(inspect.signature(architectures[arch]).parameters) - {"kwargs", *_RESERVED}
            for key in args:
                check_known("args", key, known, arch)
        try:
            self.module: nn.Module = architectures[arch](
                encoder_name=encoder_name,
                encoder_weights="imagenet" if pretrained else None,
                in_channels=3,
                classes=num_classes,
                **args,
            )
            self.image_mean, self.image_std, self.channel_order = _normalisation(smp, encoder_name, pretrained)
        except Exception as error:  # exceptions of the library, timm and huggingface_hub, which share no base class
            hint = "; offline, set pretrained: false, or model.init_weights: FILE" if pretrained else ""
            raise ModelError(
                f"segmentation_models_pytorch could not build {arch} over {encoder_name}"
                f"{f' with args {args}' if args else ''} ({reason(error)}){hint}."
            ) from error
        needed = getattr(self.module, "requires_divisible_input_shape", True)
        self._multiple: int = getattr(self.backbone, "output_stride", 32) if needed else 1
        define_for_one(self.module)
        freeze_unused(self)

    @property
    def backbone(self) -> nn.Module:
        """The encoder: ``pretrained`` loads it, and it trains at the optimiser's own learning rate."""
        encoder: nn.Module = self.module.encoder  # type: ignore[assignment]
        return encoder

    def forward(self, x: Tensor) -> Tensor:
        """Return B×C×H×W logits for normalised B×3×H×W images of any size."""
        height, width = x.shape[-2:]
        right, bottom = -width % self._multiple, -height % self._multiple
        if right or bottom:
            x = F.pad(x, (0, right, 0, bottom))  # zero is the mean colour of normalised images
        logits: Tensor = self.module(x)
        return logits[..., :height, :width]


def _check_encoder(smp: Any, name: str) -> None:
    """Refuse unknown encoders: after ``tu-``, timm would also fetch configurations from addresses on the Hub."""
    timm_name = name.removeprefix("tu-")
    if timm_name == name:
        check_known("encoder_name", name, smp.encoders.get_encoder_names(), "segmentation_models_pytorch")
    elif "/" in timm_name or ":" in timm_name or not timm.is_model(timm_name):
        check_known("encoder_name", name, (f"tu-{known}" for known in timm.list_models()), f"timm {timm.__version__}")


def _normalisation(
    smp: Any, encoder_name: str, pretrained: bool
) -> tuple[tuple[float, ...], tuple[float, ...], ChannelOrder]:
    if pretrained or (encoder_name.startswith("tu-") and timm.models.is_model_pretrained(encoder_name[3:])):
        return from_preprocessing(smp.encoders.get_preprocessing_params(encoder_name))
    for start, (mean, std) in _NORMALISATIONS:
        if encoder_name.startswith(start):
            return mean, std, "rgb"
    return IMAGENET_MEAN, IMAGENET_STD, "rgb"


def from_preprocessing(params: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...], ChannelOrder]:
    """Compute the normalisation of [0, 1] RGB images that equals the library's ``preprocess_input`` of 0 to 255 ones.

    Args:
        params: ``mean`` and ``std`` per channel, in the order of ``input_space`` and in units of ``input_range``.

    Returns:
        RGB mean and standard deviation, and the order of the channels that the network expects.
    """
    scale = max(params.get("input_range") or (0, 255))
    mean, std = (tuple(value / scale for value in params[key]) for key in ("mean", "std"))
    if str(params.get("input_space", "RGB")).upper() == "BGR":
        return mean[::-1], std[::-1], "bgr"
    return mean, std, "rgb"
