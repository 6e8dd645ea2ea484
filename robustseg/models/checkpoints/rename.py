"""Renaming of a file's tensors to the names of a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from robustseg.models.checkpoints.compare import compare, shorten
from robustseg.models.checkpoints.layouts.layout import Layout, State
from robustseg.models.checkpoints.read import Inner, unwrapped
from robustseg.models.checkpoints.reading import Reading
from robustseg.models.checkpoints.wrappers import as_expected
from robustseg.models.model import SegmentationModel
from robustseg.models.network import Network

logger = logging.getLogger(__name__)

BARE = ("", "network.", "network.module.")
"""Prefixes in a model for a file with this package's names: of the model, its network, or a module in that."""
NORMALISATION = ("mean", "std")
"""Buffers of the model that files of other projects, and of networks alone, do not hold."""


class _Named(NamedTuple):
    """The tensors of a file by the model's names, and the part of the file that they come from."""

    state: State
    inner: Inner
    common: int
    """Number of names that the model has, minus the number of those that it lacks."""


def recognise(tensors: Mapping[str, Tensor], layouts: Sequence[Layout]) -> tuple[Layout, Inner] | None:
    """Return the layout of a file's tensors, and the tensors without prefixes; None for an unknown layout."""
    # No project has such names itself, and the marks of a layout may be found among them.
    for inner in unwrapped(tensors, barest_first=True):
        for layout in layouts:
            if layout.recognises(inner.state):
                return layout, inner
    return None


def fit_to(model: SegmentationModel, reading: Reading, layouts: Sequence[Layout], warn: bool = False) -> Reading:
    """Rename a file's tensors to the model's names, and compare them with the model's.

    Args:
        model: Model with the expected names.
        reading: The file, as read.
        layouts: The known layouts.
        warn: Log a warning about content that is not taken from the file.

    Returns:
        The reading with the tensors by the names of ``model.state_dict()``, their layout if it is another project's,
        and the mismatch.

    Raises:
        ForeignError: The layout is known and belongs to another network, or to other settings of this one.
    """
    expected = model.state_dict()
    closest = _closest(model, expected, reading.tensors)
    layout, named, inner = None, closest.state, closest.inner
    # A file of this package with a few extra tensors or other shapes is not another project's.
    if compare(expected, closest.state) and closest.common <= len(expected) // 2:
        known = recognise(reading.tensors, layouts)
        if known is not None and not _is_adapted(model, known[0]):
            layout, inner = known
            named = _converted(model, expected, layout, inner)
    if warn:
        _tell(named, inner, expected, reading.path)
    return reading.compared(expected, named, layout)


def _converted(model: SegmentationModel, expected: State, layout: Layout, inner: Inner) -> State:
    converted = {f"network.{key}": value for key, value in layout.convert(inner.state, model.network).items()}
    for key, value in (("mean", layout.mean), ("std", layout.std)):
        own = expected[key]
        stays = value is None or model.normalisation_given
        converted[key] = own if stays else own.new_tensor(value).view_as(own)
    return converted | _counters(expected, converted)


def _closest(model: SegmentationModel, expected: State, state: Mapping[str, Tensor]) -> _Named:
    closest: _Named | None = None
    for inner in unwrapped(state):
        saved = model.network.rename_saved(inner.state) if isinstance(model.network, Network) else inner.state
        for prefix in BARE:
            named = {f"{prefix}{key}": value for key, value in saved.items()}
            if prefix:
                named |= {key: expected[key] for key in NORMALISATION}
            if compare(expected, named | _counters(expected, named)):
                named = as_expected(named, expected)
            named |= _counters(expected, named)
            common = len(expected.keys() & named.keys()) - len(named.keys() - expected.keys())
            if closest is None or common > closest.common or not compare(expected, named):
                closest = _Named(named, inner, common)
            if not compare(expected, named):
                return closest
    assert closest is not None  # the unchanged state always comes first
    return closest


def _is_adapted(model: SegmentationModel, layout: Layout) -> bool:
    """Return whether the network is the other project's own: then the names in the file are the network's."""
    library = getattr(model.network, "library", None)
    return isinstance(library, str) and layout.name.split()[0] == library


def _tell(found: State, inner: Inner, expected: State, source: object) -> None:
    """Warn of content that is not taken from a file whose names fit."""
    if found.keys() != expected.keys():
        return
    if inner.beside:
        where = "".join(inner.prefixes)
        logger.warning("%s: loaded %s*, and not %s, which it holds beside it", source, where, shorten(inner.beside))
    if "network." in inner.prefixes and found["mean"] is expected["mean"]:
        logger.warning(
            "%s holds a network without mean and std: images are normalised as the model's configuration says, by mean "
            "%s, std %s; if the file is one of robustseg's, these were lost from it",
            *(source, *([round(value, 4) for value in expected[key].flatten().tolist()] for key in NORMALISATION)),
        )


def _counters(expected: State, found: State) -> State:
    """Return the BatchNorm counters that files older than PyTorch 0.4.1 lack; they have no effect with a momentum."""
    return {key: value for key, value in expected.items() if key.endswith("num_batches_tracked") and key not in found}
