"""The basis of all plots: matplotlib figures as SVG elements that are embedded in a page and take its text colour.

Figures are made without pyplot and with matplotlib's own defaults instead of the user's settings, so that the same data
gives the same SVG. Letters stay text, so that they can be searched and are readable on a dark page.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

WIDTH = 4.4
"""Width in inches at which a phone hardly shrinks letters."""
INK = "#010203"
"""Placeholder for the page's text colour in the SVG."""
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.alpha": 0.25,
    "grid.color": INK,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "robustseg",
    "text.color": INK,
    # Names may hold dollar signs, which are no formulas.
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


class Plot(NamedTuple):
    """A drawn plot."""

    name: str
    """Name of letters, digits and hyphens, unique in its page."""
    title: str
    svg: str
    """The plot as an ``<svg>`` element."""
    note: str = ""
    wide: bool = False
    """True for a plot over the whole width of the page; others are side by side."""


@contextmanager
def drawing(height: float, width: float = WIDTH) -> Iterator[Figure]:
    """Make a matplotlib figure for a ``with`` block, with matplotlib's defaults in place of the user's settings.

    Args:
        height: Height in inches.
        width: Width in inches.
    """
    with matplotlib.rc_context(), warnings.catch_warnings():
        # The font for measuring lacks some letters, which browsers have.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield Figure((width, height), layout="constrained")


def svg_of(figure: Figure, name: str, title: str) -> str:
    """Convert a matplotlib figure to an ``<svg>`` element; its ids begin with ``name``, its label is ``title``."""
    buffer = io.StringIO()
    # None leaves the whole block out, since the date would change the file with the same data.
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    root = ElementTree.fromstring(buffer.getvalue())
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            # Ids of all plots share one page.
            if key == "id":
                value = f"{name}-{value}"
            elif key in ("clip-path", "style") or key.endswith("href"):
                value = value.replace("url(#", f"url(#{name}-").replace(INK, "currentColor")
                value = re.sub(r"font-family: [^;]*", "font-family: inherit", value)
                value = f"#{name}-{value[1:]}" if value.startswith("#") else value
            element.attrib[key.rpartition("}")[2]] = value
        # The style's only rule would apply to the whole page, whose own style has it.
        for style in element.findall("{*}style"):
            element.remove(style)
    root.attrib = {"viewBox": root.attrib["viewBox"], "id": name, "class": "plot", "role": "img", "aria-label": title}
    return ElementTree.tostring(root, encoding="unicode")
