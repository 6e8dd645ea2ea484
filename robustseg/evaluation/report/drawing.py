"""What all plots are drawn with: figures whose SVG stands inside a page and takes its text colour.

Figures are made without pyplot and with matplotlib's own defaults, whatever the user's settings; the same data gives
the same text. Letters stay text: they can be searched, and follow a dark page.
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
"""Inches; what a phone shows without shrinking letters much."""
INK = "#010203"
"""Stands for the page's text colour, which the SVG takes over."""
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
    # A dollar sign in a name is a dollar sign.
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


class Plot(NamedTuple):
    """A drawn plot."""

    name: str
    """Unique in its page; letters, digits and hyphens."""
    title: str
    svg: str
    """An ``<svg>`` element."""
    note: str = ""
    wide: bool = False
    """Across the page, where others stand side by side."""


@contextmanager
def drawing(height: float, width: float = WIDTH) -> Iterator[Figure]:
    """A figure of a size in inches under settings that are put back, with matplotlib's defaults as their base."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A browser has the letters that the font used for measuring lacks.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield Figure((width, height), layout="constrained")


def svg_of(figure: Figure, name: str, title: str) -> str:
    """A figure as an ``<svg>`` element, whose ids begin with ``name`` and which is read out as ``title``."""
    buffer = io.StringIO()
    # None leaves the whole block out: the date is not a function of the data.
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
        # Its one rule would hold for the whole page, and is in the page's own style.
        for style in element.findall("{*}style"):
            element.remove(style)
    root.attrib = {"viewBox": root.attrib["viewBox"], "id": name, "class": "plot", "role": "img", "aria-label": title}
    return ElementTree.tostring(root, encoding="unicode")
