"""Pictures of adversarial examples: one row per sample, with images, perturbation, ground truth and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from robustseg.types import IGNORE_INDEX, ignored_pixels

Palette = Sequence[tuple[int, int, int]]

_VOID = (0, 0, 0)
_GAP = 4
_TITLE_HEIGHT = 16


class Example(NamedTuple):
    """One sample under one attack, on the CPU."""

    id: str
    image: Tensor
    """3×H×W in [0, 1]."""
    image_adv: Tensor
    """3×H×W in [0, 1]."""
    target: Tensor
    """H×W class ids."""
    prediction: Tensor
    """H×W class ids, for the clean image."""
    prediction_adv: Tensor
    """H×W class ids, for the adversarial image."""


def colorize(ids: Tensor, palette: Palette, ignore_index: int | None = IGNORE_INDEX) -> np.ndarray:
    """Colour class ids H×W as H×W×3 uint8; ignored pixels are black."""
    colours = np.array([*palette, _VOID], dtype=np.uint8)
    index = torch.where(ignored_pixels(ids, ignore_index), len(palette), ids).numpy()
    coloured: np.ndarray = colours[index]
    return coloured


def amplify(perturbation: Tensor) -> np.ndarray:
    """Draw a perturbation 3×H×W around mid-grey, its largest entry as black or white, as H×W×3 uint8."""
    largest = perturbation.abs().max().clamp_min(torch.finfo(perturbation.dtype).tiny)
    return _to_bytes(0.5 + perturbation / (2 * largest))


def draw_panel(
    examples: Sequence[Example],
    palette: Palette,
    ignore_index: int | None = IGNORE_INDEX,
    truth: str = "ground truth",
) -> Image.Image:
    """Draw one row per example with titled columns.

    Args:
        examples: At least one; their sizes may differ.
        palette: RGB colour of each class.
        ignore_index: Label of pixels that are drawn in black; None if there is none.
        truth: Title of the targets.
    """
    rows = [_row(example, palette, ignore_index, truth) for example in examples]
    titles = [title for title, _ in rows[0]]
    width = max(cells[0][1].shape[1] for cells in rows)
    height = sum(cells[0][1].shape[0] + _GAP for cells in rows) - _GAP
    panel = Image.new("RGB", (len(titles) * (width + _GAP) - _GAP, _TITLE_HEIGHT + height), (255, 255, 255))
    draw = ImageDraw.Draw(panel)
    for column, title in enumerate(titles):
        left, top = column * (width + _GAP), _TITLE_HEIGHT
        draw.text((left + 2, 1), title, fill=(0, 0, 0), font=_font(title, width))
        for cells in rows:
            panel.paste(Image.fromarray(cells[column][1]), (left, top))
            top += cells[column][1].shape[0] + _GAP
    return panel


def _font(title: str, width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the largest font up to 12 pixels in which ``title`` fits into ``width`` pixels."""
    for size in range(12, 6, -1):
        font = ImageFont.load_default(size)
        if font.getlength(title) <= width - 2:
            break
    return font


def _row(example: Example, palette: Palette, ignore_index: int | None, truth: str) -> list[tuple[str, np.ndarray]]:
    perturbation = example.image_adv - example.image
    largest = float(perturbation.abs().max()) * 255
    return [
        ("image", _to_bytes(example.image)),
        (f"delta, max {largest:.1f}/255", amplify(perturbation)),
        ("adversarial", _to_bytes(example.image_adv)),
        (truth, colorize(example.target, palette, ignore_index)),
        ("before", colorize(example.prediction, palette, ignore_index)),
        ("after", colorize(example.prediction_adv, palette, ignore_index)),
    ]


def _to_bytes(image: Tensor) -> np.ndarray:
    array: np.ndarray = image.mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return array
