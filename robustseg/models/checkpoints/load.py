"""Loader of trained weights for a model that was built from a local configuration."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from torch import Tensor

from robustseg.models.checkpoints.compare import Mismatch, by_module, not_finite
from robustseg.models.checkpoints.read import read_plain, read_weights
from robustseg.models.checkpoints.reading import Reading
from robustseg.models.checkpoints.recognise import ForeignError, check_config, explain, fit_names
from robustseg.models.checkpoints.record import record_in
from robustseg.models.checkpoints.rename import NORMALISATION
from robustseg.models.errors import ModelError
from robustseg.models.model import SegmentationModel

logger = logging.getLogger(__name__)

_MAY_DIFFER = ("output_stride", "rates", "learned_upsampling")
"""Settings that may differ on purpose: DeepLab is trained at stride 16 and evaluated at 8."""
_REMEDY = "check model.network against its training run, or see all of it with robustseg inspect."


class _File(TypedDict):
    path: str
    sha256: str


class WeightsInfo(_File, total=False):
    """Origin of loaded weights, for the report of an evaluation."""

    averaged: bool
    """True if the weights are a running average (EMA) of the trained ones."""
    layout: str
    """Project and network of the tensor names in the file, if it is another project."""
    record: dict[str, Any]
    """Record of the file, if it has one; see :func:`read_record`."""


def load_segmentation_weights(model: SegmentationModel, path: str | Path, without: Sequence[str] = ()) -> WeightsInfo:
    """Load a checkpoint of this package or of a known project strictly, reading only its tensors.

    The file never decides which classes are built: its other content is ignored, and nothing in it is executed. The
    normalisation (``mean``, ``std``) is part of the weights and replaces the model's. Files of other projects do not
    hold it: they get the project's, if :mod:`robustseg.models.checkpoints.recognise` knows it, and otherwise keep the
    model's.

    Args:
        model: Model that receives the weights; unchanged if the file does not fit.
        path: ``.ckpt``, ``.pt``, ``.pth`` or ``.safetensors``; wrappings and prefixes of training scripts are removed
            (:mod:`robustseg.models.checkpoints.read`).
        without: Modules of the network that keep their weights, such as ``head.classifier.2``.

    Returns:
        The file's path and SHA-256 (hexadecimal), the layout of its tensors if it is another project's, and its record
        if it has one.

    Raises:
        ModelError: The file is missing or unreadable, was trained with another number of classes, belongs to another
            network, or differs from the model in the names, shapes or kinds of its tensors.
    """
    try:
        reading = fit_names(model, read_weights(path), warn=True)
        if reading.layout is not None:
            check_config(reading.layout, reading.config, model.network)
    except ForeignError as error:
        raise ModelError(f"{path}: {error}") from error
    expected = model.state_dict()
    kept = {key: expected[key] for key in _kept_keys(model, without)}
    reading = reading.compared(expected, reading.named | kept, reading.layout)
    if reading.mismatch:
        _refuse_other_classes(model, reading, expected, reading.mismatch)
        logger.info("%s does not fit the network.\n%s", path, reading.mismatch.report())
        read_as = f" (read as {reading.layout.name})" if reading.layout else ""
        reason = explain(model, reading)
        remedy = f"{reason} (robustseg inspect shows all of it)." if reason else f"{reading.mismatch}; {_REMEDY}"
        raise ModelError(f"{path}{read_as} does not fit the network: {remedy}")
    if broken := not_finite(reading.named):
        raise ModelError(
            f"{path} holds values that are not finite ({by_module(broken)}), as a training that diverged leaves them: "
            f"take an earlier checkpoint."
        )
    if reading.layout is None:
        _refuse_other_settings(model, reading.record, path)
        _refuse_other_normalisation(model, reading.named, path)
    model.load_state_dict(reading.named, strict=True)
    return _info(reading, path)


def _info(reading: Reading, path: str | Path) -> WeightsInfo:
    info = WeightsInfo(path=str(path), sha256=reading.sha256)
    if reading.averaged:
        info["averaged"] = True
    if reading.record is not None:
        info["record"] = reading.record
    if reading.layout is not None:
        info["layout"] = reading.layout.name
    return info


def _refuse_other_settings(model: SegmentationModel, record: dict[str, Any] | None, path: str | Path) -> None:
    """Refuse a checkpoint of this package whose network had other settings that change the computation."""
    trained = (record or {}).get("network")
    if not isinstance(trained, dict) or trained.get("class") != type(model.network).__name__:
        return
    own, theirs = getattr(model.network, "settings", {}), trained.get("settings")
    if not isinstance(theirs, dict):
        return
    differing = [name for name, value in own.items() if name in theirs and theirs[name] != value]
    wrong = [name for name in differing if name not in _MAY_DIFFER]
    named = wrong or differing
    trained_with = ", ".join(f"{name}: {json.dumps(theirs[name])}" for name in named)
    here = ", ".join(json.dumps(own[name]) for name in named)
    if wrong:
        raise ModelError(
            f"{path} was trained with {trained_with}, and the network here has {here}: set model.network.init_args as "
            f"they were, or take the configuration of that run; the shapes of the tensors do not show it."
        )
    if differing:
        logger.warning("%s was trained with %s, and the network here has %s", path, trained_with, here)


def _refuse_other_normalisation(model: SegmentationModel, named: dict[str, Tensor], path: str | Path) -> None:
    """Refuse a mean and a deviation that were given and are not the file's, which would replace them."""
    for key in NORMALISATION if model.normalisation_given else ():
        own, theirs = (state[key].flatten().tolist() for state in (model.state_dict(), named))
        if any(abs(one - other) > 1e-6 for one, other in zip(own, theirs, strict=True)):
            here, there = ([round(value, 6) for value in values] for values in (own, theirs))
            raise ModelError(
                f"model.{key} = {here}, but {path} was trained with {there}, which its weights need: leave model.mean "
                "and model.std out, or give those of the file."
            )


def _kept_keys(model: SegmentationModel, without: Sequence[str]) -> set[str]:
    """Return the keys of the modules that are not loaded."""
    own = model.state_dict().keys()
    kept: set[str] = set()
    for name in without:
        prefix = f"network.{name.removeprefix('network.')}"
        under = {key for key in own if key == prefix or key.startswith(f"{prefix}.")}
        if not under:
            known = ", ".join(dict.fromkeys(key.split(".")[1] for key in own if key.startswith("network.")))
            raise ModelError(f"init_without: the network has no module {name!r}; its modules begin with {known}.")
        kept |= under
    return kept


def read_record(path: str | Path) -> dict[str, Any] | None:
    """Read the record that a checkpoint holds about itself, executing nothing in it.

    Args:
        path: A checkpoint of this package or of another project.

    Returns:
        ``val`` with the clean ``miou`` and ``pixel_acc`` (in [0, 1], or None), the number of ``images`` and the
        trainer's ``precision``, or None if exactly these weights were not validated; ``data`` with ``name``, ``split``,
        ``image_size`` and ``window`` of that validation, or None likewise; ``epoch``, ``global_step``, and
        ``trained_with``, the description of the attacker in the loop or None for standard training. All values are
        plain and finite, as in JSON. None for a file without a known record: an older checkpoint, a foreign or a
        damaged file.

    Raises:
        ModelError: The file does not exist.
    """
    if not Path(path).is_file():
        raise ModelError(f"weights file {path} does not exist: give a checkpoint.")
    try:
        return record_in(read_plain(path))
    except ModelError:
        return None


def _refuse_other_classes(
    model: SegmentationModel,
    reading: Reading,
    expected: dict[str, Tensor],
    mismatch: Mismatch,
) -> None:
    """Refuse a file that differs from the model in the class count only, with one message."""
    if mismatch.missing or mismatch.unexpected:
        return
    pairs = [(expected[key].shape, reading.named[key].shape) for key in mismatch.wrong]
    # Along any axis: that of a transformer's tokens, both of a transposed convolution.
    same_rank = all(len(own) == len(other) for own, other in pairs)
    sizes = {(mine, theirs) for own, other in pairs for mine, theirs in zip(own, other, strict=False) if mine != theirs}
    counts = {theirs for mine, theirs in sizes if mine == model.num_outputs}
    # Others may grow with it, as those of features beside scores do.
    alike = all((theirs > mine) == (max(counts, default=0) > model.num_outputs) for mine, theirs in sizes)
    weights = any(len(own) > 1 for own, _ in pairs)  # not only a single bias
    if same_rank and weights and len(counts) == 1 and alike:
        modules = dict.fromkeys(_module_of(key) for key in mismatch.wrong)
        count = counts.pop()
        more = "" if count < model.num_outputs else "name those that the data has not in model.drop_classes, "
        raise ModelError(
            f"{reading.path} was trained with {count} classes, the model has {model.num_outputs}: "
            f"use the data set it was trained on, {more}or give the network its num_classes. To train from all of it "
            f"but its classifiers: model.init_weights with model.init_without: [{', '.join(modules)}]."
        )


def _module_of(key: str) -> str:
    """Return the name of a tensor's module for ``init_without``, or the tensor's own name if it has no module."""
    module, _, name = key.removeprefix("network.").rpartition(".")
    return module if name in ("weight", "bias") else f"{module}.{name}"
