"""Classifiers of other projects as initial weights of backbones: their wrappings, names and normalisation."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robustseg.models.checkpoints.compare import shorten
from robustseg.models.errors import ModelError

PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "base_model.", "backbone.")
"""Prefixes of all tensor names from training scripts; the last two in nmndeep/revisiting-at and in ARES."""
NORMALISERS = (
    # MadryLab/robustness and microsoft/robust-models-transfer: AttackerModel(normalizer, model, attacker)
    ("normalizer.new_mean", "normalizer.new_std"),
    ("attacker.normalize.new_mean", "attacker.normalize.new_std"),
    # RobustBench and nmndeep/revisiting-at: Sequential(normalize=, model=), without names in others
    ("normalize.mean", "normalize.std"),
    ("normalize.new_mean", "normalize.new_std"),
    ("0.mean", "0.std"),
)
"""Buffers of a wrapper that normalises [0, 1] images before the network."""
_COPY = "attacker.model."
"""Prefix of the second copy of AttackerModel's network in the state dict."""


@dataclass(frozen=True)
class ClassifierLayout:
    """Mapping from the tensor names of one architecture in another project to those in timm.

    Attributes:
        name: Project and architecture, for messages.
        marks: Regular expressions; each must match the beginning of some key.
        renames: Pairs of a regular expression for the beginning of a key and its replacement; the first that matches
            is applied.
        flattened: Ending of keys whose tensors have axes of length one here and none in timm.
        mean: RGB mean of the images in [0, 1] units in the training of these weights, if it is not timm's for the
            architecture.
        std: Standard deviation of the same images.
    """

    name: str
    marks: tuple[str, ...]
    renames: tuple[tuple[str, str], ...]
    flattened: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def recognises(self, state: Mapping[str, Tensor]) -> bool:
        """Return whether these are the tensors of such a classifier."""
        return all(any(re.match(mark, key) for key in state) for mark in self.marks)

    def convert(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Name the tensors as timm does; those that no rename matches keep their names."""
        return {
            self._rename(key): value.flatten() if self.flattened and key.endswith(self.flattened) else value
            for key, value in state.items()
        }

    def _rename(self, key: str) -> str:
        for pattern, replacement in self.renames:
            new, count = re.subn(rf"\A(?:{pattern})", replacement, key, count=1)
            if count:
                return new
        return key


_BLOCK = r"stages.\1.blocks.\2."
LAYOUTS = (
    ClassifierLayout(
        name="facebookresearch/ConvNeXt",
        marks=(r"downsample_layers\.0\.0\.", r"stages\.0\.0\.pwconv1\."),
        renames=(
            (r"downsample_layers\.0\.", "stem."),
            (r"downsample_layers\.([1-3])\.", r"stages.\1.downsample."),
            (r"stages\.(\d)\.(\d+)\.dwconv\.", rf"{_BLOCK}conv_dw."),
            (r"stages\.(\d)\.(\d+)\.pwconv([12])\.", rf"{_BLOCK}mlp.fc\3."),
            (r"stages\.(\d)\.(\d+)\.", _BLOCK),
            (r"norm\.", "head.norm."),
            (r"head\.", "head.fc."),
        ),
    ),
    ClassifierLayout(
        name="torchvision ConvNeXt",
        marks=(r"features\.0\.0\.", r"features\.1\.0\.layer_scale"),
        renames=(
            (r"features\.0\.", "stem."),
            # features hold the stem, then alternately a stage and the downsampling before the next one
            *((rf"features\.{2 * stage}\.", f"stages.{stage}.downsample.") for stage in (1, 2, 3)),
            *(
                (rf"features\.{2 * stage + 1}\.(\d+)\.{theirs}", rf"stages.{stage}.blocks.\1.{ours}")
                for stage in (0, 1, 2, 3)
                for theirs, ours in (
                    (r"block\.0\.", "conv_dw."),
                    (r"block\.2\.", "norm."),
                    (r"block\.3\.", "mlp.fc1."),
                    (r"block\.5\.", "mlp.fc2."),
                    (r"layer_scale", "gamma"),
                )
            ),
            (r"classifier\.0\.", "head.norm."),
            (r"classifier\.2\.", "head.fc."),
        ),
        flattened="layer_scale",
    ),
    ClassifierLayout(
        name="torchvision VGG",
        marks=(r"features\.0\.weight", r"classifier\.6\."),
        renames=(
            (r"classifier\.0\.", "pre_logits.fc1."),
            (r"classifier\.3\.", "pre_logits.fc2."),
            (r"classifier\.6\.", "head.fc."),
        ),
    ),
    ClassifierLayout(
        # its ConvStem is a Sequential inside of a module; here it is the first module of the stem
        name="nmndeep/revisiting-at ConvNeXt with ConvStem",
        marks=(r"stem\.stem\.0\.", r"stages\.0\.blocks\."),
        renames=((r"stem\.stem\.", "stem.0."),),
        # its models have no normalisation layer, except for ViT-S (rb_architecture_util.py)
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    ),
)
"""Layouts with names other than timm's; torchvision's ResNets, ARES, RobustBench and timm-based code use timm's."""


@dataclass(frozen=True)
class ClassifierWeights:
    """Tensors by timm's names, with the layout and the normalisation of the file."""

    state: dict[str, Tensor]
    layout: str | None
    """Project and architecture of the names in the file; None if they are timm's."""
    mean: tuple[float, ...] | None
    """Mean per channel for [0, 1] images, from a normalisation layer in the file or from the layout; else None."""
    std: tuple[float, ...] | None


def classifier_weights(state: Mapping[str, Tensor]) -> ClassifierWeights:
    """Name the tensors of a classifier as timm does.

    Args:
        state: Tensors as read from the file, of timm or of a known project.

    Returns:
        The tensors without wrappings, renamed, and the normalisation that the file states.

    Raises:
        ModelError: The normalisation is invalid, or the file holds two different networks; the message does not name
            the file.
    """
    inner, mean, std = _unwrap(dict(state))
    layout = next((layout for layout in LAYOUTS if layout.recognises(inner)), None)
    if layout is None:
        return ClassifierWeights(inner, None, mean, std)
    if mean is None:
        mean, std = layout.mean, layout.std
    return ClassifierWeights(layout.convert(inner), layout.name, mean, std)


def _unwrap(
    state: dict[str, Tensor],
) -> tuple[dict[str, Tensor], tuple[float, ...] | None, tuple[float, ...] | None]:
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    while True:
        for mean_key, std_key in NORMALISERS:
            if mean_key in state and std_key in state:
                mean, std = _normalisation(state.pop(mean_key), state.pop(std_key), mean_key)
        _drop_copy(state)
        numbered = ("1.",) if mean is not None else ()  # the module after the normalisation in a Sequential
        common = [prefix for prefix in (*PREFIXES, *numbered) if state and all(key.startswith(prefix) for key in state)]
        if not common:
            return state, mean, std
        state = {key.removeprefix(common[0]): value for key, value in state.items()}


def _drop_copy(state: dict[str, Tensor]) -> None:
    copy = [key for key in state if key.startswith(_COPY)]
    differing = [key for key in copy if not _equal(state[key], state.get(key.removeprefix("attacker.")))]
    if differing:
        raise ModelError(
            f"the file holds two networks, model and {_COPY.rstrip('.')}, that differ ({shorten(differing)}): save the "
            f"tensors of one alone"
        )
    for key in copy:
        del state[key]


def _equal(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and one.dtype == other.dtype and bool(torch.equal(one, other))


def _normalisation(mean: Tensor, std: Tensor, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        values = [tuple(map(float, tensor.flatten().tolist())) for tensor in (mean, std)]
    except (RuntimeError, TypeError, NotImplementedError):  # complex, quantised, sparse
        values = [(), ()]
    plausible = [len(each) == 3 and all(map(math.isfinite, each)) for each in values]
    if not all(plausible) or not all(value > 0 for value in values[1]):
        raise ModelError(
            f"{name} and what goes with it are no mean and positive standard deviation of three channels: remove them "
            f"from the file"
        )
    # float32 buffers: 0.485 is 0.48500001430511475
    return tuple(round(value, 7) for value in values[0]), tuple(round(value, 7) for value in values[1])
