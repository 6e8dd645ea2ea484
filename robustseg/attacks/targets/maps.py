"""Target maps of targeted attacks: from the true targets to those that the attacker wants."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from robustseg.attacks.errors import AttackError
from robustseg.attacks.losses.base import IGNORED
from robustseg.attacks.settings import Checked
from robustseg.attacks.targets.label_files import text_mask
from robustseg.devices import on_device
from robustseg.types import IGNORE_INDEX, ignored_pixels


class TargetMap(Checked, ABC):
    """Base of the maps from true targets to the targets that the attacker wants the model to predict.

    An image's map is a function of its own targets and id only, never of the rest of the batch.

    Args:
        keep_ignored: Pixels that are ignored in the true targets stay ignored, as in all metrics; otherwise they get
            a wanted class as well.
    """

    def __init__(self, keep_ignored: bool = True):
        self.keep_ignored = keep_ignored

    def __call__(
        self, targets: Tensor, ids: Sequence[str] | None = None, ignore_index: int | None = IGNORE_INDEX
    ) -> Tensor:
        """Compute the wanted targets.

        Args:
            targets: B×H×W true class ids, or the ignore index.
            ids: B sample ids, if they are known.
            ignore_index: Label of ignored pixels, here and in the result; with None no target is ignored, and wanted
                pixels without a class are IGNORED.

        Returns:
            B×H×W long.

        Raises:
            AttackError: The map does not fit images of this size.
        """
        ignored = ignored_pixels(targets, ignore_index)
        true = targets.long().masked_fill(ignored, IGNORED)
        wanted = self.draw(true, ids).expand_as(true)
        if self.keep_ignored:
            wanted = wanted.masked_fill(ignored, IGNORED)
        return wanted if ignore_index is None else wanted.masked_fill(wanted == IGNORED, ignore_index)

    @abstractmethod
    def draw(self, targets: Tensor, ids: Sequence[str] | None) -> Tensor:
        """Compute the wanted targets, long, on the targets' device: B×H×W, or H×W if all images share them.

        Args:
            targets: B×H×W long, :data:`~robustseg.attacks.losses.base.IGNORED` where ignored.
            ids: B sample ids, if they are known.
        """

    def __repr__(self) -> str:
        shown = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


class PureClass(TargetMap):
    """One class everywhere.

    Args:
        class_id: The class.
        keep_ignored: See :class:`TargetMap`.

    Raises:
        ValueError: ``class_id`` is negative.
    """

    def __init__(self, class_id: int, keep_ignored: bool = True):
        super().__init__(keep_ignored)
        self.class_id = check_class("class_id", class_id)

    def draw(self, targets: Tensor, ids: Sequence[str] | None) -> Tensor:  # noqa: D102
        return torch.full_like(targets[0], self.class_id)


class Strip(TargetMap):
    """Stripes of equal width with cyclic classes from the left, or from the top.

    Args:
        classes: The classes, in their order.
        width: Pixels across one stripe; by default each class gets one stripe, all of about the same width.
        direction: Direction of the stripes: ``"vertical"`` or ``"horizontal"``.
        keep_ignored: See :class:`TargetMap`.

    Raises:
        ValueError: No or a negative class, a width below 1, unknown ``direction``.
    """

    def __init__(
        self,
        classes: Sequence[int],
        width: int | None = None,
        direction: Literal["vertical", "horizontal"] = "vertical",
        keep_ignored: bool = True,
    ):
        super().__init__(keep_ignored)
        if not classes:
            raise ValueError("classes = []: stripes need at least one class.")
        if width is not None and width < 1:
            raise ValueError(f"width = {width}: a stripe is at least one pixel wide.")
        if direction not in ("vertical", "horizontal"):
            raise ValueError(f"direction = {direction!r}: use vertical or horizontal.")
        self.classes = tuple(check_class("classes", class_id) for class_id in classes)
        self.width = width
        self.direction = direction

    def draw(self, targets: Tensor, ids: Sequence[str] | None) -> Tensor:  # noqa: D102
        height, width = targets.shape[-2:]
        across = width if self.direction == "vertical" else height
        position = torch.arange(across, device=targets.device)
        stripe = position * len(self.classes) // across if self.width is None else position // self.width
        line = on_device(torch.tensor(self.classes), targets.device)[stripe % len(self.classes)]
        return (line.unsqueeze(0) if self.direction == "vertical" else line.unsqueeze(1)).expand(height, width)


class Remap(TargetMap):
    """A replacement of classes: {11: 4} turns class 11 into class 4. All apply at once, so that two can swap.

    Args:
        mapping: Wanted class by true class; other classes do not change.
        keep_ignored: See :class:`TargetMap`; ignored pixels have no class to be replaced and stay in either case.

    Raises:
        ValueError: An empty mapping or a negative class.
    """

    def __init__(self, mapping: Mapping[int, int], keep_ignored: bool = True):
        super().__init__(keep_ignored)
        if not mapping:
            raise ValueError("mapping = {}: name at least one class that is to look like another.")
        self.mapping = {check_class("mapping", old): check_class("mapping", new) for old, new in mapping.items()}

    def draw(self, targets: Tensor, ids: Sequence[str] | None) -> Tensor:  # noqa: D102
        wanted = targets.clone()
        for old, new in self.mapping.items():
            wanted = wanted.masked_fill(targets == old, new)
        return wanted


class Text(TargetMap):
    """A text in the middle of the image, in one class.

    Args:
        text: Text to be read in the prediction; may have several lines.
        text_class: Class of the letters.
        background: Class of everything else; None keeps the true labels there.
        size: Font size in pixels; by default the largest that fits.
        keep_ignored: See :class:`TargetMap`.

    Raises:
        ValueError: An empty text, a negative class, a size below 1.
    """

    def __init__(
        self,
        text: str,
        text_class: int,
        background: int | None = None,
        size: int | None = None,
        keep_ignored: bool = True,
    ):
        super().__init__(keep_ignored)
        if not text.strip():
            raise ValueError(f"text = {text!r}: give a text that can be seen.")
        if size is not None and size < 1:
            raise ValueError(f"size = {size}: letters are at least one pixel high.")
        self.text = text
        self.text_class = check_class("text_class", text_class)
        self.background = None if background is None else check_class("background", background)
        self.size = size

    def draw(self, targets: Tensor, ids: Sequence[str] | None) -> Tensor:  # noqa: D102
        height, width = targets.shape[-2:]
        letters = text_mask(self.text, height, width, self.size)
        if letters is None:
            raise AttackError(
                f"text = {self.text!r} in size {self.size or 'any'} does not fit images of {width}x{height} pixels "
                "(width x height): take a smaller size or a shorter text."
            )
        ground = targets if self.background is None else torch.full_like(targets, self.background)
        return ground.masked_fill(on_device(letters, targets.device), self.text_class)


def check_class(name: str, class_id: int) -> int:
    """Refuse a value that cannot be a class id."""
    if isinstance(class_id, bool) or int(class_id) != class_id or class_id < 0:
        raise ValueError(f"{name} = {class_id!r}: a class id is an integer, 0 or more.")
    return int(class_id)
