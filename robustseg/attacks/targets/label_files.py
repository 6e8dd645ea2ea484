"""Label maps from picture files and from text, read with Pillow, which is imported on first use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustseg.attacks.losses.base import IGNORED
from robustseg.types import ignored_pixels

if TYPE_CHECKING:
    from PIL import Image

_MODES = {"1": torch.uint8, "L": torch.uint8, "P": torch.uint8, "I;16": torch.uint16, "I": torch.int32}
"""Pillow's modes with one number per pixel, and the type of these numbers."""
_UNREADABLE = 5
"""Font size up to which letters become dots."""


def label_files(source: str | Path) -> list[Path]:
    """Return the file itself, or the PNG files of a folder in the order of their names.

    Raises:
        ValueError: There is no such file or folder, or the folder holds no PNG file.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    found = sorted(file for file in path.glob("*.png") if not file.name.startswith(".")) if path.is_dir() else []
    if not found:
        raise ValueError(f"source = {source}: no label picture and no folder of PNG files is there.")
    return found


def read_labels(path: str | Path, num_classes: int | None, ignore_index: int | None) -> Tensor:
    """Read the labels of a picture file: H×W long, the ignore index as :data:`~robustseg.attacks.losses.base.IGNORED`.

    Raises:
        ValueError: Not a picture of one number per pixel, or ids that are no classes; the message names the file.
    """
    from robustseg.opening.pictures import ERRORS, open_picture

    try:
        with open_picture(path, exact=True) as picture:
            mode = picture.mode
            # palette pictures hold ids as well; a conversion would give colours
            labels = _tensor(picture, mode) if mode in _MODES else None
    except FileNotFoundError:
        raise ValueError(f"path = {path}: there is no such file.") from None
    except ERRORS as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
        raise ValueError(f"path = {path}: it cannot be read as a picture ({reason}): export it again.") from error
    if labels is None:
        raise ValueError(f"path = {path}: its colour mode is {mode}; export it with one class id per pixel (PNG).")
    labels = labels.masked_fill(ignored_pixels(labels, ignore_index), IGNORED)
    highest = num_classes if num_classes is not None else torch.iinfo(torch.int32).max
    unknown = [label for label in torch.unique(labels).tolist() if label != IGNORED and not 0 <= label < highest]
    if unknown:
        shown = ", ".join(map(str, unknown[:8])) + (f" and {len(unknown) - 8} more" if len(unknown) > 8 else "")
        raise ValueError(
            f"path = {path}: it holds the ids {shown}, outside of the {num_classes} classes (ignored: {ignore_index}): "
            "convert it to these classes."
        )
    return labels


def _tensor(picture: Image.Image, mode: str) -> Tensor:
    if mode == "1":
        # packed bits otherwise; white becomes 255
        return _bytes(picture.convert("L"), torch.uint8) // 255
    return _bytes(picture, _MODES[mode])


def _bytes(picture: Image.Image, dtype: torch.dtype) -> Tensor:
    width, height = picture.size
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=dtype).view(height, width).long()


def text_mask(text: str, height: int, width: int, size: int | None) -> Tensor | None:
    """Draw a mask of centred text: H×W bool, in Pillow's own font, without grey edges.

    Args:
        text: May have several lines.
        height: H.
        width: W.
        size: Font size in pixels; None for the largest at which the text takes at most nine tenths of both sides.

    Returns:
        The mask, or None if the text does not fit or has no visible letter.
    """
    if size is None:
        # hardly a letter is narrower than a fifth of its size, or lower than half of it
        low, high = _UNREADABLE, max(_UNREADABLE + 1, min(2 * height, 5 * width // max(map(len, text.split("\n"))) + 1))
        while high - low > 1:
            middle = (low + high) // 2
            box = _ink(text, middle).size
            low, high = (middle, high) if box[0] <= 0.9 * width and box[1] <= 0.9 * height else (low, middle)
        if low == _UNREADABLE:
            return None
        size = low
    ink = _ink(text, size)
    left, top = (width - ink.width) // 2, (height - ink.height) // 2
    if left < 0 or top < 0 or not ink.width:
        return None
    drawn = torch.zeros(height, width, dtype=torch.bool)
    drawn[top : top + ink.height, left : left + ink.width] = _bytes(ink, torch.uint8) > 0
    return drawn


def _ink(text: str, size: int) -> Image.Image:
    """Draw the letters, white on black, and crop to them: Pillow's measures before drawing are not exact."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    lines = text.split("\n")
    # letters are about as wide as their size at most, and lines 1.5 times as high
    canvas = Image.new("L", (3 * size * max(map(len, lines)) // 2 + size, 2 * size * len(lines) + size), 0)
    draw = ImageDraw.Draw(canvas)
    draw.fontmode = "1"
    draw.multiline_text((size // 2, size // 2), text, fill=255, font=font, align="center")
    return canvas.crop(canvas.getbbox() or (0, 0, 0, 0))
