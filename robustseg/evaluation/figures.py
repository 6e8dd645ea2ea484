"""The list of an evaluation's figures, each with its heading, its format and the places that show it.

A new figure needs its metric and a row here. Scores are functions in :mod:`robustseg.metrics`; figures of attacks, such
as cost and perturbation size, are in :mod:`robustseg.evaluation.record`. Tables, cards, reports, studies and loggers
read this list.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Unit = Literal["share", "calls", "images", "linf", "l2", "seconds"]
"""share: in [0, 1], shown in percent. calls: calls of the model, a mean per image. linf: in the [0, 1] pixel range,
shown in steps of an 8-bit image. l2: L2 or rms norm, in units of the [0, 1] pixel range."""
Place = Literal[
    "terminal", "report", "gap", "report gap", "sizes", "distances", "leaderboard", "plots", "study", "study plots"
]
"""terminal: the table of scores. report: the main table of a report. gap: the gaps between clean and robust in a card;
report gap: those in a report's main table. sizes: the report's table of perturbations. distances: the terminal's table
of attacks without a bound. study: the table of a study."""


@dataclass(frozen=True)
class Figure:
    """One figure of an evaluation, a number per attack."""

    key: str
    """Name in cards and code."""
    unit: Unit
    better: Literal["higher", "lower"] | None
    """Direction that is better for the attacked model; None if there is none."""
    shown: Mapping[Place, int] = field(default_factory=dict)
    """Places that show the figure, with its rank from the left there."""
    heading: str = ""
    """Heading of its columns; the key by default."""
    digits: int = 2
    """Number of decimals that are shown."""
    logged: str | None = None
    """Last part of its names in logs, as in ``val/<attack>/miou``; None: not logged."""
    of: Literal["scores", "attack"] = "attack"
    """scores: a figure of clean images as well. attack: a figure of attacks only."""
    required: bool = False
    """True if a card without it is refused; other figures may be missing."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "heading", self.heading or self.key)

    @property
    def factor(self) -> float:
        """Factor from its own unit to the displayed one."""
        return {"share": 100.0, "linf": 255.0}.get(self.unit, 1.0)


def _score(key: str, shown: Mapping[Place, int], logged: bool = True) -> Figure:
    return Figure(key, "share", "higher", shown, logged=key if logged else None, of="scores", required=True)


FIGURES = (
    _score(
        "pixel_acc",
        {
            "terminal": 1,
            "report": 1,
            "gap": 1,
            "report gap": 1,
            "leaderboard": 1,
            "plots": 1,
            "study": 2,
            "study plots": 2,
        },
    ),
    _score("mean_acc", {"terminal": 4, "report": 2, "study": 3}, logged=False),
    _score(
        "miou",
        {
            "terminal": 2,
            "report": 3,
            "gap": 2,
            "report gap": 2,
            "leaderboard": 2,
            "plots": 2,
            "study": 1,
            "study plots": 1,
        },
    ),
    _score("image_miou", {"terminal": 3, "report": 4, "gap": 3, "study": 4}),
    Figure("pixel_acc_8bit", "share", "higher", {"sizes": 6}, "pixel_acc, 8 bit"),
    Figure("miou_8bit", "share", "higher", {"terminal": 5, "report": 5}, "miou, 8 bit"),
    Figure("forwards", "calls", None, {"terminal": 7, "report": 6, "study": 5}, digits=0),
    Figure("backwards", "calls", None, {"terminal": 8, "report": 7, "study": 6}, digits=0),
    Figure("seconds", "seconds", None),
    Figure("linf_max", "linf", None, {"sizes": 1}, "linf"),
    Figure("l2_max", "l2", None, {"sizes": 2}, "L2", 3),
    Figure("rms_max", "l2", None, {"sizes": 3}, "rms", 3),
    Figure("linf_max_8bit", "linf", None, {"sizes": 4}, "linf, 8 bit"),
    Figure("l2_max_8bit", "l2", None, {"sizes": 5}, "L2, 8 bit", 3),
    Figure("fooled_share", "share", "lower", {"sizes": 7, "distances": 1}, "images fooled", 1),
    Figure("fooled_linf", "linf", "higher", {"sizes": 8, "distances": 2}, "median linf"),
    Figure("fooled_l2", "l2", "higher", {"sizes": 9, "distances": 3}, "median L2", 3),
    Figure("target_success", "share", "lower", {"terminal": 6, "sizes": 10}, "target shown", 1),
    Figure("without_valid_pixels", "images", None, {"sizes": 11}, "not attacked", 0),
)
"""All figures, in the order of a card."""
BY_KEY: Mapping[str, Figure] = {figure.key: figure for figure in FIGURES}
SCORES = tuple(figure.key for figure in FIGURES if figure.of == "scores")
"""Keys of the figures that clean images have as well."""
IN_8BIT = {"pixel_acc": "pixel_acc_8bit", "miou": "miou_8bit"}
"""Figures of adversarial images that are rounded to 8 bit, by the figure of the images as they are."""
LOGGED = {figure.key: figure.logged for figure in FIGURES if figure.logged is not None}
"""Last part of the figures' names in logs, by key."""


def shown_in(place: Place) -> tuple[Figure, ...]:
    """Return the figures that a place shows, from left to right."""
    there = [figure for figure in FIGURES if place in figure.shown]
    return tuple(sorted(there, key=lambda figure: figure.shown[place]))


def keys_in(place: Place) -> tuple[str, ...]:
    """Return the keys of :func:`shown_in`."""
    return tuple(figure.key for figure in shown_in(place))


def number(value: Tensor | float) -> float | None:
    """Convert a figure for JSON: NaN becomes None."""
    figure = float(value)
    return None if math.isnan(figure) else figure
