"""From the names in a file to those of a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from robustseg.models.checkpoints.compare import compare, shorten
from robustseg.models.checkpoints.layouts.layout import Layout, State
from robustseg.models.checkpoints.read import Inner, unwrapped
from robustseg.models.model import SegmentationModel
from robustseg.models.network import Network

logger = logging.getLogger(__name__)

BARE = ("", "network.", "network.module.")
"""Where in a model a file's tensors may belong by names of its own: the model, its network, a module in that."""
NORMALISATION = ("mean", "std")
"""The model's buffers that the files of other projects, and of networks alone, do not hold."""


class _Named(NamedTuple):
    """The tensors of a file by the model's names, and the part of the file that they are."""

    state: State
    inner: Inner
    common: int
    """How many of the names the model has, less those that it has not."""


def recognise(state: Mapping[str, Tensor], layouts: Sequence[Layout]) -> tuple[Layout, State] | None:
    """The layout of a state dict, and its tensors without the wrappings around it; None for one that is not known."""
    found = _recognise(state, layouts)
    return None if found is None else (found[0], found[1].state)


def _recognise(state: Mapping[str, Tensor], layouts: Sequence[Layout]) -> tuple[Layout, Inner] | None:
    for inner in unwrapped(state):
        for layout in layouts:
            if layout.recognises(inner.state):
                return layout, inner
    return None


def fit_to(
    model: SegmentationModel, state: Mapping[str, Tensor], layouts: Sequence[Layout], source: object = None
) -> tuple[State, Layout | None]:
    """Name a file's tensors as the model does.

    Args:
        model: Says which names are expected.
        state: As read from the file.
        layouts: Those that are known.
        source: The file, for warnings of what is not taken from it; None: none are given.

    Returns:
        The tensors by the names of ``model.state_dict()``, and the layout that they had where that is another
        project's. Where nothing fits, they are as close to the model's names as can be.

    Raises:
        ForeignError: The layout is known and belongs to another network, or to other settings of this one.
    """
    expected = model.state_dict()
    closest = _closest(model, expected, state)
    if not compare(expected, closest.state):
        return _told(closest.state, closest.inner, expected, source), None
    # A file of our own with a few tensors too many or of other shapes is not another project's.
    known = None if closest.common > len(expected) // 2 else _recognise(state, layouts)
    if known is None or _is_adapted(model, known[0]):
        return _told(closest.state, closest.inner, expected, source), None
    layout, inner = known
    converted = {f"network.{key}": value for key, value in layout.convert(inner.state, model.network).items()}
    for key, value in (("mean", layout.mean), ("std", layout.std)):
        own = expected[key]
        stays = value is None or model.normalisation_given
        converted[key] = own if stays else own.new_tensor(value).view_as(own)
    return _told(converted | _counters(expected, converted), inner, expected, source), layout


def _closest(model: SegmentationModel, expected: State, state: Mapping[str, Tensor]) -> _Named:
    closest: _Named | None = None
    for inner in unwrapped(state):
        saved = model.network.rename_saved(inner.state) if isinstance(model.network, Network) else inner.state
        for prefix in BARE:
            named = {f"{prefix}{key}": value for key, value in saved.items()}
            if prefix:
                named |= {key: expected[key] for key in NORMALISATION}
            named |= _counters(expected, named)
            common = len(expected.keys() & named.keys()) - len(named.keys() - expected.keys())
            if closest is None or common > closest.common or not compare(expected, named):
                closest = _Named(named, inner, common)
            if not compare(expected, named):
                return closest
    assert closest is not None  # the state as it is always comes first
    return closest


def _is_adapted(model: SegmentationModel, layout: Layout) -> bool:
    """Whether the network is the other project's own, of another size: then the names in the file are the network's."""
    library = getattr(model.network, "library", None)
    return isinstance(library, str) and layout.name.split()[0] == library


def _told(found: State, inner: Inner, expected: State, source: object) -> State:
    """Warn of what is not taken from a file whose names fit otherwise."""
    if source is None or found.keys() != expected.keys():
        return found
    if inner.beside:
        where = "".join(inner.prefixes)
        logger.warning("%s: loaded %s*, and not %s, which it holds beside it", source, where, shorten(inner.beside))
    if "network." in inner.prefixes and found["mean"] is expected["mean"]:
        logger.warning(
            "%s holds a network without mean and std: images are normalised as the model's configuration says, by mean "
            "%s, std %s; if the file is one of robustseg's, these were lost from it",
            *(source, *([round(value, 4) for value in expected[key].flatten().tolist()] for key in NORMALISATION)),
        )
    return found


def _counters(expected: State, found: State) -> State:
    """BatchNorm's counters that are absent, as in files older than PyTorch 0.4.1: without effect with a momentum."""
    return {key: value for key, value in expected.items() if key.endswith("num_batches_tracked") and key not in found}
