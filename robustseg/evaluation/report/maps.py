"""Pictures with maps of a value per pixel, as one SVG element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from robustseg.evaluation.report.drawing import INK, WIDTH, Plot, drawing, svg_of
from robustseg.evaluation.report.wording import plain, shorten

_ACROSS = 2 * WIDTH
_CAPTION_LENGTH = 20
_COLOURS = "inferno"
"""Colour map from dark for low values, with even steps of lightness; readable for the colour-blind."""


class Panel(NamedTuple):
    """A picture or a map."""

    caption: str
    pixels: Tensor
    """3×H×W in [0, 1] for a picture, H×W for a map of values."""


def map_plot(name: str, title: str, rows: Sequence[Sequence[Panel]], highest: float, label: str) -> Plot:
    """Draw rows of pictures and maps, with one colour scale for all maps.

    Args:
        name: Name of the plot, unique in the page.
        title: Title of the plot.
        rows: Panels of each row, all of one size.
        highest: Value of the lightest pixels; the darkest have 0.
        label: Label of the colour scale.
    """
    columns = max(len(row) for row in rows)
    height, width = rows[0][0].pixels.shape[-2:]
    with drawing(0.6 + len(rows) * (0.2 + _ACROSS / columns * height / width), _ACROSS) as figure:
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        drawn = None
        for line, row in zip(grid, rows, strict=True):
            for axes, panel in zip(line, row, strict=False):
                pixels = panel.pixels.float().cpu()
                if pixels.ndim == 3:
                    axes.imshow(pixels.movedim(0, -1).numpy(), interpolation="none")
                else:
                    drawn = axes.imshow(pixels.numpy(), _COLOURS, vmin=0, vmax=highest, interpolation="none")
                axes.set_title(shorten(plain(panel.caption), _CAPTION_LENGTH), fontsize=7, color=INK, pad=2)
        if drawn is not None:
            bar = figure.colorbar(drawn, ax=grid, location="bottom", shrink=0.5, aspect=40, pad=0.02)
            bar.set_label(plain(label))
        return Plot(name, title, svg_of(figure, name, title), wide=True)
