"""From the names in a file to those of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from robustseg.models.foreign.layout import Layout, State
from robustseg.models.mismatch import compare
from robustseg.models.model import SegmentationModel
from robustseg.models.network import Network
from robustseg.models.weights import unwrapped

BARE = ("", "network.", "network.module.")
"""Where in a model a file's tensors may belong by names of its own: the model, its network, a module in that."""


def recognise(state: Mapping[str, Tensor], layouts: Sequence[Layout]) -> tuple[Layout, State] | None:
    """The layout of a state dict, and its tensors without the wrappings around it; None for one that is not known."""
    for inner in unwrapped(state):
        for layout in layouts:
            if layout.recognises(inner):
                return layout, inner
    return None


def fit_to(
    model: SegmentationModel, state: Mapping[str, Tensor], layouts: Sequence[Layout]
) -> tuple[State, Layout | None]:
    """Name a file's tensors as the model does.

    Args:
        model: Says which names are expected.
        state: As read from the file.
        layouts: Those that are known.

    Returns:
        The tensors by the names of ``model.state_dict()``, and the layout that they had where that is another
        project's. Where nothing fits, they are as close to the model's names as can be.

    Raises:
        ForeignError: The layout is known and belongs to another network, or to other settings of this one.
    """
    expected = model.state_dict()
    closest, most = dict(state), -1
    for inner in unwrapped(state):
        saved = model.network.rename_saved(inner) if isinstance(model.network, Network) else inner
        for prefix in BARE:
            named = {f"{prefix}{key}": value for key, value in saved.items()}
            if prefix:
                named |= {key: expected[key] for key in ("mean", "std")}
            named |= _counters(expected, named)
            common = len(expected.keys() & named.keys()) - len(named.keys() - expected.keys())
            if not compare(expected, named):
                return named, None
            if common > most:
                closest, most = named, common
    # A file of our own with a few tensors too many or of other shapes is not another project's.
    known = None if most > len(expected) // 2 else recognise(state, layouts)
    if known is None:
        return closest, None
    layout, inner = known
    converted = {f"network.{key}": value for key, value in layout.convert(inner, model.network).items()}
    for key, value in (("mean", layout.mean), ("std", layout.std)):
        own = expected[key]
        converted[key] = own if value is None else own.new_tensor(value).view_as(own)
    return converted | _counters(expected, converted), layout


def _counters(expected: State, found: State) -> State:
    """BatchNorm's counters that are absent, as in files older than PyTorch 0.4.1: without effect with a momentum."""
    return {key: value for key, value in expected.items() if key.endswith("num_batches_tracked") and key not in found}
