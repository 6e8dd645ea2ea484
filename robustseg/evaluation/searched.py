"""The precision of the searches of an evaluation, and what the search of some images in float32 says of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from robustseg.attacks import Search


@dataclass(frozen=True)
class MeasuredSearch(Search):
    """The precision of an evaluation's searches, with the measurement of what it costs in strength.

    All figures are of float32 forwards. Some images are searched in float32 as well; the card has the difference.

    Args:
        precision: ``bf16``, ``fp16`` or ``float32``. The first two are torch's autocast.
        channels_last: Lay out images, features and weights with the channels last, which is faster in bf16 and fp16.
        images: Number of images to search in float32 as well, evenly spread over the scored ones; 0 for none.
        limit: Most points of pixel_acc that an attack may leave more than in float32 without a caution in the card.

    Raises:
        ValueError: An unknown precision, or a negative number.
    """

    images: int = 8
    limit: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.images, bool) or not isinstance(self.images, int) or self.images < 0:
            raise ValueError(f"search.images = {self.images!r}: use 1 or more, or 0 to measure nothing.")
        if isinstance(self.limit, bool) or not (isinstance(self.limit, (int, float)) and 0 <= self.limit < math.inf):
            raise ValueError(f"search.limit = {self.limit!r}: use points of pixel_acc, 0 or more.")
