"""Recognition of other projects' state dicts by the names of their tensors."""

from __future__ import annotations

from robustseg.models.checkpoints import diagnosis
from robustseg.models.checkpoints.layouts import (
    dla,
    drn,
    espnet,
    mmseg_resnet,
    segformer,
    segmenter,
    semseg,
    torchfcn,
    torchvision_resnet,
    upernet,
)
from robustseg.models.checkpoints.layouts.layout import ForeignError, Layout, State
from robustseg.models.checkpoints.mmseg_config import check_config
from robustseg.models.checkpoints.reading import Reading
from robustseg.models.checkpoints.rename import fit_to, recognise
from robustseg.models.model import SegmentationModel

LAYOUTS: tuple[Layout, ...] = (
    *semseg.LAYOUTS,
    *torchvision_resnet.LAYOUTS,
    *mmseg_resnet.LAYOUTS,
    *torchfcn.LAYOUTS,
    *drn.LAYOUTS,
    *dla.LAYOUTS,
    *espnet.LAYOUTS,
    *upernet.LAYOUTS,
    *segformer.LAYOUTS,
    *segmenter.LAYOUTS,
)
"""All known layouts, the more specific ones first."""


def fit_names(model: SegmentationModel, reading: Reading, warn: bool = False) -> Reading:
    """Rename a file's tensors to the model's names; see :func:`~robustseg.models.checkpoints.rename.fit_to`."""
    return fit_to(model, reading, LAYOUTS, warn)


def explain(model: SegmentationModel, reading: Reading) -> str | None:
    """Explain why a file does not fit; see :func:`~robustseg.models.checkpoints.diagnosis.explain`."""
    return diagnosis.explain(model, reading, LAYOUTS)


__all__ = ["LAYOUTS", "ForeignError", "Layout", "State", "check_config", "explain", "fit_names", "recognise"]
