"""Types shared by all parts of the package: samples, batches, the ignore index and exact fractions."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

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


def parse_fraction(value: Fraction | float | int | str, name: str = "value") -> Fraction:
    """Convert ``"8/255"``, ``"0.03"``, ``0.03`` or ``1`` to an exact fraction.

    A float is read by its shortest decimal form, so that ``0.03`` means 3/100.

    Args:
        value: Value from the configuration.
        name: Key of the value, for the message.

    Raises:
        ValueError: ``value`` is not a finite number.
    """
    try:
        return Fraction(re.sub(r"\s*/\s*", "/", str(value)))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{name} = {value!r} is not a number: write a fraction such as 8/255 or a decimal.") from None
