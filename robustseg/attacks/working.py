"""Working set of an attack: the images of a batch that are not finished."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.victim import Victim
from robustseg.devices import on_device

Own = TypeVar("Own", bound="Working")


@dataclass
class Working:
    """The images that are still being attacked; attacks add fields for their own state.

    The first dimension of every tensor is the images. Numbers and tensors without dimensions belong to the whole batch.
    """

    victim: Victim
    targets: Tensor
    """B×H×W."""
    rows: Tensor
    """Indices in the batch of the call, B values."""

    def select(self: Own, going: Tensor) -> Own:
        """Return the images at these positions, ascending and on the CPU; if these are all, ``self``."""
        count, going = len(self.rows), going.cpu()
        if len(going) == count:
            return self
        here = on_device(going, self.rows.device)
        return replace(self, **{name: _part(value, going, here, count) for name, value in vars(self).items()})


@dataclass
class Batch(Working):
    """The images that are still being attacked, with the clean ones."""

    images: Tensor
    """B×3×H×W."""


def _part(value: Any, going: Tensor, here: Tensor, count: int) -> Any:
    if isinstance(value, Tensor):
        return value[here] if value.ndim else value
    if isinstance(value, dict):
        return {name: _part(entry, going, here, count) for name, entry in value.items()}
    if isinstance(value, NoiseSource):
        return value.select(going, count)
    if isinstance(value, Victim):
        return value.select(going)
    return value.select(here) if hasattr(value, "select") else value
