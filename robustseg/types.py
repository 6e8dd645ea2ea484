"""Types shared by all parts of the package: samples, batches, the ignore index and exact fractions."""

from __future__ import annotations

from fractions import Fraction
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

IGNORE_INDEX = 255
"""Default label of ignored pixels, which count in no loss, attack or metric."""


class Sample(NamedTuple):
    """One image with its ground truth, as a data set returns it."""

    image: Tensor
    """3×H×W float in [0, 1], RGB, not normalised."""
    target: Tensor
    """H×W long: class ids, or the ignore index."""
    id: str
    """Unique within the data set and stable across runs."""


class Batch(NamedTuple):
    """Collated samples; a NamedTuple, so that Lightning moves it between devices."""

    images: Tensor
    """B×3×H×W float in [0, 1], RGB, not normalised."""
    targets: Tensor
    """B×H×W long."""
    ids: list[str]
    """B sample ids."""


def checked_ignore_index(value: object) -> int | None:
    """Return an ignore index as an int, or None, which ignores nothing.

    Raises:
        ValueError: ``value`` is neither a whole number nor None.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(
            f"ignore_index = {value!r} is no label: give the whole number of the ignored pixels, {IGNORE_INDEX} for "
            "example, or None (null) if no pixel is ignored."
        )
    return int(value)


def ignored_pixels(targets: Tensor, ignore_index: int | None) -> Tensor:
    """Return a mask of the ignored pixels, of the shape of ``targets``; None ignores nothing.

    Raises:
        ValueError: ``ignore_index`` is neither a whole number nor None.
    """
    ignore_index = checked_ignore_index(ignore_index)
    return torch.zeros_like(targets, dtype=torch.bool) if ignore_index is None else targets == ignore_index


def parse_fraction(value: Fraction | float | int | str, name: str = "value") -> Fraction:
    """Convert ``"8/255"``, ``"0.5/255"``, ``"1e-3"``, ``0.03`` or ``1`` to an exact fraction.

    A float is read by its shortest decimal form, so that ``0.03`` means 3/100.

    Args:
        value: Value from the configuration: a number, or one number over another.
        name: Key of the value, for the message.

    Raises:
        ValueError: ``value`` is not a finite number.
    """
    try:
        upper, lower = (str(value) if "/" in str(value) else f"{value}/1").split("/")
        return Fraction(upper.strip()) / Fraction(lower.strip())
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{name} = {value!r} is not a number: write a fraction such as 8/255 or a decimal.") from None
