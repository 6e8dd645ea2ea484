"""Semantic segmentation networks of Hugging Face transformers, from local files only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustseg.models.adapters.library import check_known, define_for_one, import_library, reason
from robustseg.models.checkpoints.compare import by_module, compare, not_finite
from robustseg.models.checkpoints.read import read_state_dict
from robustseg.models.errors import ModelError
from robustseg.models.network import IMAGENET_MEAN, IMAGENET_STD, ChannelOrder, Network
from robustseg.models.unused import freeze_unused
from robustseg.opening.plain import read_json


class Preprocessing(NamedTuple):
    """The normalisation and channel order that a network expects, for images in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: ChannelOrder


_IMAGENET = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
_HALF = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}
_UNCHANGED = {"do_normalize": False, "do_flip_channel_order": True}
MODEL_TYPES: dict[str, Mapping[str, Any]] = {
    "beit": _HALF,
    "data2vec-vision": _HALF,
    "dpt": _HALF,
    "mobilenet_v2": _HALF,
    "mobilevit": _UNCHANGED,
    "mobilevitv2": _UNCHANGED,
    "segformer": _IMAGENET,
    "upernet": _IMAGENET,
}
"""Model types that can be built, each with the defaults of its image processor."""

_REFUSED = (
    # they name repositories on the Hub, and the library would fetch their configuration, weights or code
    *("auto_map", "backbone", "attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("_experts_implementation", "quantization_config", "trust_remote_code", "custom_pipelines"),
)
_REFUSED_TYPES = ("timm_backbone", "timm_wrapper")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class TransformersNetwork(Network):
    """A network of transformers; its checkpoints (``model.safetensors``, ``pytorch_model.bin``) load unchanged.

    For any configuration, nothing is fetched and no code besides the library's own is run. The logits are resized to
    the images with ``align_corners`` off, as the library's ``post_process_semantic_segmentation`` does.

    Args:
        num_classes: Number of classes C; the configuration's own number is ignored.
        config: Folder of a model, or its ``config.json``; or a model type, one of :data:`MODEL_TYPES`, for its default
            configuration.
        pretrained: Load the encoder from the weights beside ``config.json``, which may be a classifier's, and leave
            the head as initialised. For a whole segmentation model use ``model.init_weights`` or ``--ckpt_path``.
        args: Entries of the configuration to change, such as ``depths``.

    Raises:
        ModelError: transformers is not installed; ``config`` does not exist, refers to something that is not on this
            machine, or is refused by the library; or the weights do not fit the encoder.
    """

    library = "transformers"

    def __init__(
        self,
        num_classes: int,
        config: str = "segformer",
        pretrained: bool = False,
        args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(num_classes)
        folder, content = _read(config)
        content |= args or {}
        model_type = _model_type(content.pop("model_type"), f"config = {config!r}")
        _check_local(content, config)
        transformers = import_library("transformers", "transformers", type(self).__name__)
        self.module: nn.Module = _build(transformers, model_type, content, num_classes, config)
        self.image_mean, self.image_std, self.channel_order = _preprocessing(model_type, folder)
        if pretrained:
            if folder is None:
                raise ModelError(f"pretrained = True: config = {config!r} is no folder with weights: give one.")
            _load_encoder(self, folder)
        define_for_one(self.module)
        side = getattr(self.module.config, "image_size", None)
        freeze_unused(self, (side,) if isinstance(side, int) else ())

    @property
    def backbone(self) -> nn.Module:
        """The encoder: ``pretrained`` loads it, and it trains at the optimiser's own learning rate."""
        encoder: nn.Module = getattr(self.module, str(self.module.base_model_prefix or "backbone"))
        return encoder

    def rename_saved(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename tensors saved by ``save_pretrained`` to the names in use; see :meth:`Network.rename_saved`."""
        names = _saved_names(self.module)
        return {names.get(key, key): value for key, value in state.items()}

    def forward(self, x: Tensor) -> Tensor:
        """Return B×C×h×w logits for normalised B×3×H×W images, at a quarter of their size for SegFormer."""
        logits: Tensor = self.module(pixel_values=x, return_dict=True).logits
        return logits

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits and the auxiliary head's, or None; see :meth:`Network.forward_with_aux`."""
        head = getattr(self.module, "auxiliary_head", None)
        if head is None:
            return self.forward(x), None
        seen: list[Tensor] = []
        # the library computes the auxiliary logits but does not return them
        handle = head.register_forward_hook(lambda _module, _args, output: seen.append(output))
        try:
            logits = self.forward(x)
        finally:
            handle.remove()
        return logits, seen[0] if seen else None


def _read(config: str) -> tuple[Path | None, dict[str, Any]]:
    """Read a configuration.

    Returns:
        Its folder, None for a type's default one, and its content.

    Raises:
        ModelError: It does not exist, holds no ``config.json``, or is of an unknown type.
    """
    path = Path(config)
    if path.is_dir() or path.is_file():
        folder = path if path.is_dir() else path.parent
        file = path / "config.json" if path.is_dir() else path
        if not file.is_file():
            raise ModelError(f"config = {config!r}: the folder holds no config.json.")
        content = _json(file)
        _model_type(content.get("model_type"), str(file))
        return folder, content
    if "/" in config or config.endswith(".json"):
        raise ModelError(
            f"config = {config!r} is not on this machine, and nothing is downloaded: give a local folder with "
            f"config.json, or one of the types {', '.join(MODEL_TYPES)}."
        )
    check_known("config", config, MODEL_TYPES, "this adapter (or a folder that does not exist)")
    return None, {"model_type": config}


def _model_type(value: object, place: str) -> str:
    if not isinstance(value, str) or value not in MODEL_TYPES:
        kind = "" if isinstance(value, str | None) else f", a {type(value).__name__},"
        raise ModelError(
            f"{place}: model_type = {value!r}{kind} is none of {', '.join(MODEL_TYPES)}: only these are known here to "
            f"return logits per pixel."
        )
    return value


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object; return an empty one if the file does not exist."""
    if not path.exists():
        return {}
    try:
        content = read_json(path)
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} is no JSON ({error}): download or copy it again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}, no object of settings.")
    return content


def _entries(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key), inner
            yield from _entries(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _entries(inner)


def _check_local(content: dict[str, Any], config: str) -> None:
    """Refuse settings that would make the library fetch files, or run code that is not its own."""
    for key, value in _entries(content):
        if (key in _REFUSED and value is not None) or (key == "model_type" and value in _REFUSED_TYPES):
            raise ModelError(
                f"config = {config!r} holds {key} = {value!r}, for which the library would fetch something or run code "
                f"that is not its own: remove it{' and give backbone_config' if key == 'backbone' else ''}."
            )


def _build(transformers: Any, model_type: str, content: dict[str, Any], num_classes: int, config: str) -> nn.Module:
    auto = transformers.models.auto
    # a saved configuration has the number of classes in the names of its labels
    content = {key: value for key, value in content.items() if key not in ("id2label", "label2id", "num_labels")}
    try:
        settings = auto.configuration_auto.CONFIG_MAPPING[model_type].from_dict(content)
        settings.num_labels = num_classes
        cls = auto.modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING[type(settings)]
        module: nn.Module = cls(settings)
    except Exception as error:  # ValueError, TypeError, KeyError, and the library's own validation errors
        raise ModelError(f"transformers could not build config = {config!r} ({reason(error)}).") from error
    return module


def _preprocessing(model_type: str, folder: Path | None) -> Preprocessing:
    file = folder / "preprocessor_config.json" if folder else None
    settings = {**MODEL_TYPES[model_type], **(_json(file) if file else {})}
    try:
        found = from_preprocessor(settings)
        values = (*found.mean, *found.std)
        plausible = len(found.mean) == len(found.std) == 3 and all(map(math.isfinite, values)) and min(found.std) > 0
    except (TypeError, ValueError, ZeroDivisionError):
        plausible = False
    if not plausible:
        shown = {key: settings.get(key) for key in ("image_mean", "image_std", "rescale_factor")}
        raise ModelError(f"{file}: {shown}: three numbers each, positive deviations and a positive factor expected.")
    return found


def from_preprocessor(settings: Mapping[str, Any]) -> Preprocessing:
    """Compute the normalisation of [0, 1] images that equals an image processor's for 0 to 255 ones.

    Args:
        settings: Content of ``preprocessor_config.json``.

    Returns:
        RGB mean and standard deviation in [0, 1] units, and the order of the channels that the network expects.
    """
    factor = float(settings.get("rescale_factor") or 1 / 255) if settings.get("do_rescale", True) else 1.0
    unit = 255 * factor  # value of white before it is normalised
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if settings.get("do_normalize", True):
        mean = tuple(settings.get("image_mean") or IMAGENET_MEAN)
        std = tuple(settings.get("image_std") or IMAGENET_STD)
    # the library flips the channels after the normalisation, so the statistics are in RGB order
    flipped = bool(settings.get("do_flip_channel_order", False))
    return Preprocessing(
        tuple(value / unit for value in mean), tuple(value / unit for value in std), "bgr" if flipped else "rgb"
    )


def _saved_names(module: nn.Module) -> dict[str, str]:
    """Return the names that the library saves tensors under, each with the name in use; empty if they are the same.

    In transformers 5, networks have new names for their tensors, and ``save_pretrained`` writes the old ones.
    """
    loading = import_library("transformers", "transformers", "TransformersNetwork")
    revert = getattr(getattr(loading, "core_model_loading", None), "revert_weight_conversion", None)
    if revert is None:
        return {}
    # separate meta tensors, so that each is known by its identity, also if parameters are shared
    own = {key: torch.empty_like(value, device="meta") for key, value in module.state_dict().items()}
    used = {id(value): key for key, value in own.items()}
    return {saved: used[id(value)] for saved, value in revert(module, own).items() if id(value) in used}


def _load_encoder(network: TransformersNetwork, folder: Path) -> None:
    path = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise ModelError(f"pretrained = True: {folder} holds neither {' nor '.join(_WEIGHTS)}: set pretrained: false.")
    prefix = f"{network.module.base_model_prefix or 'backbone'}."
    state = read_state_dict(path)
    if not any(key.startswith(prefix) for key in state):  # a file of the encoder alone
        state = {f"{prefix}{key}": value for key, value in state.items()}
    named = network.rename_saved(state).items()
    inner = {key.removeprefix(prefix): value for key, value in named if key.startswith(prefix)}
    encoder = network.backbone
    if mismatch := compare(encoder.state_dict(), inner):
        raise ModelError(f"{path} does not hold the encoder of {folder / 'config.json'}: {mismatch}.")
    if broken := not_finite(inner):
        raise ModelError(f"{path} holds values that are not finite ({by_module(broken)}): take another checkpoint.")
    encoder.load_state_dict(inner, strict=True)
