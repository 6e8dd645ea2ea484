"""Recognition of other projects' state dicts by the names of their tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from robustseg.models.checkpoints import diagnosis
from robustseg.models.checkpoints.layouts import (
    dla,
    drn,
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
from robustseg.models.checkpoints.rename import fit_to, recognise
from robustseg.models.model import SegmentationModel

LAYOUTS: tuple[Layout, ...] = (
    *semseg.LAYOUTS,
    *torchvision_resnet.LAYOUTS,
    *mmseg_resnet.LAYOUTS,
    *torchfcn.LAYOUTS,
    *drn.LAYOUTS,
    *dla.LAYOUTS,
    *upernet.LAYOUTS,
    *segformer.LAYOUTS,
    *segmenter.LAYOUTS,
)
"""Every layout that is known, the more particular ones first."""


def fit_names(
    model: SegmentationModel, state: Mapping[str, Tensor], source: object = None
) -> tuple[State, Layout | None]:
    """Name a file's tensors as the model does; see :func:`~robustseg.models.checkpoints.rename.fit_to`."""
    return fit_to(model, state, LAYOUTS, source)


def explain(model: SegmentationModel, state: Mapping[str, Tensor], found: State) -> str | None:
    """Say why a file does not fit; see :func:`~robustseg.models.checkpoints.diagnosis.explain`."""
    return diagnosis.explain(model, state, found, LAYOUTS)


__all__ = ["LAYOUTS", "ForeignError", "Layout", "State", "check_config", "explain", "fit_names", "recognise"]
