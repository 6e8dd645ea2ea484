"""Checks of the tensors that go into an attack, and facts about them, with one wait for their device."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from robustseg.attacks.checks import UNIT, Bounds, plain_tensor, refuse_no_images, refuse_no_targets, within
from robustseg.attacks.errors import AttackError
from robustseg.attacks.losses.base import IGNORED
from robustseg.devices import read
from robustseg.types import ignored_pixels


class Entry(NamedTuple):
    """Checked copies of the tensors of an attack's call, and what was read of them with one wait for their device."""

    images: Tensor
    """B×3×H×W, detached, within the bounds."""
    targets: Tensor
    """B×H×W int64, :data:`~robustseg.attacks.losses.base.IGNORED` where ignored."""
    valid: Tensor
    """B bool on the CPU: the image has a pixel that is not ignored."""
    highest: int
    """Largest label."""
    aims: Aims | None
    """The attack's own targets, if it makes any."""


class Aims(NamedTuple):
    """The targets that an attack makes of those of the call, and facts about them."""

    targets: Tensor
    """B×H×W, IGNORED where no class is wanted."""
    aimed: Tensor
    """B bool on the CPU: some pixel has a wanted class."""
    highest: int
    """Largest wanted class."""


def checked_batch(
    images: Tensor, targets: Tensor, ignore_index: int | None, bounds: Bounds = UNIT
) -> tuple[Tensor, Tensor]:
    """Return images and targets of :func:`checked_entry`; arguments and errors as there."""
    return checked_entry(images, targets, ignore_index, bounds)[:2]


def checked_entry(
    images: Tensor,
    targets: Tensor,
    ignore_index: int | None,
    bounds: Bounds = UNIT,
    wanted_of: Callable[[Tensor], Tensor | None] = lambda targets: None,
) -> Entry:
    """Refuse tensors that no attack accepts, before the first forward, with one wait for their device.

    Args:
        images: B×3×H×W floating point within ``bounds``.
        targets: B×H×W integer class ids, or the ignore index.
        ignore_index: Label of ignored pixels; None if no pixel is ignored.
        bounds: Smallest and largest value of the images. Values beyond by rounding are set to the bound.
        wanted_of: Function from the targets, with ignored pixels as IGNORED, to further targets, or to None.

    Raises:
        AttackError: Wrong types, shapes, dtypes or pixel range, negative labels that are not the ignore index.
    """
    refuse_no_images(images, AttackError)
    refuse_no_targets(targets, images)
    images = plain_tensor(images).detach().clone()
    # In uint8, an ignore index of −1 would equal 255.
    targets = plain_tensor(targets).detach().long()
    ignored = ignored_pixels(targets, ignore_index)
    labels = targets.masked_fill(ignored, IGNORED)
    wanted = wanted_of(labels)
    facts = [images.amin(), images.amax(), targets.masked_fill(ignored, 0).amin(), labels.amax(), _any(~ignored)]
    lowest_value, highest_value, lowest, highest, valid, *aims = read(
        *facts, *([] if wanted is None else _about(wanted))
    )
    images = within(images, float(lowest_value), float(highest_value), AttackError, bounds)
    if int(lowest) < 0:
        raise AttackError(
            f"targets hold {int(lowest)}, which is neither a class nor ignore_index = {ignore_index}: "
            "give the attack the data's ignore_index."
        )
    return Entry(images, labels, valid, int(highest), None if wanted is None else Aims(wanted, aims[0], int(aims[1])))


def read_aims(wanted: Tensor) -> Aims:
    """Look at an attack's own targets, B×H×W; waits for their device once."""
    aimed, highest = read(*_about(wanted))
    return Aims(wanted, aimed, int(highest))


def _about(wanted: Tensor) -> tuple[Tensor, Tensor]:
    return _any(wanted != IGNORED), wanted.amax()


def _any(mask: Tensor) -> Tensor:
    return mask.flatten(1).any(1)
