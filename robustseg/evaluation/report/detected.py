"""The part of a report about detectors in front of the model."""

from __future__ import annotations

from typing import NamedTuple

from robustseg.evaluation.card import Card, DetectorFacts, DetectorRow
from robustseg.evaluation.report.wording import NOTHING, count, percent, plain, setting

COLUMNS = ("rejected", "AUC", "images accepted", "accepted pixel_acc", "accepted miou", "pixel_acc with rejection")
"""Headings of the columns after detector and attack."""

_ADAPTIVE = ("OnPatches", "ThroughBlur")
"""Classes of adaptive attacks, which take a detector into account."""
_NOTE = (
    "In percent. A detector rejects whole images. With rejection, all pixels of a rejected adversarial image count as "
    "right and all of a rejected clean image as wrong, those of an accepted image by their prediction: rejecting "
    "everything would give 100 under attack and 0 on clean images. AUC: adversarial images against the clean ones. "
)
_BLIND = (
    "None of these attacks knows of a detector, and such attacks say little about one (Carlini & Wagner, 2017): add "
    "attacks that are made against it, in OnPatches or ThroughBlur."
)
_MIXED = (
    "Attacks that do not know a detector say little about it (Carlini & Wagner, 2017): go by those that are made "
    "against it, in OnPatches or ThroughBlur with the detector's own settings."
)


class Row(NamedTuple):
    """The figures of one detector under one attack."""

    detector: str
    attack: str
    cells: tuple[str, ...]


def rows(card: Card) -> list[Row]:
    """Return a row for each detector and the clean images or an attack; empty without detectors."""
    return [
        Row(plain(name), plain(attack), _cells(row))
        for name, found in card.detectors.items()
        for attack, row in found.rows().items()
    ]


def _cells(row: DetectorRow) -> tuple[str, ...]:
    if row.accepted is None or row.with_rejection is None:
        return ("could not run", *[NOTHING] * (len(COLUMNS) - 1))
    return (
        percent(row.rejected),
        percent(row.auc) if "auc" in row.model_fields_set else "",
        count(row.accepted.images),
        percent(row.accepted.pixel_acc),
        percent(row.accepted.miou),
        percent(row.with_rejection.pixel_acc),
    )


def lines(card: Card) -> list[str]:
    """Describe each detector's threshold in a line; empty without detectors."""
    return [_line(plain(name), found) for name, found in card.detectors.items()]


def _line(name: str, found: DetectorFacts) -> str:
    threshold = found.threshold
    below = NOTHING if threshold.value is None else f"{threshold.value:.4f}"
    rate, images = percent(threshold.false_positive_rate, 1), threshold.images
    return (
        f"{name} rejects images with a score below {below}: at most {rate} % of the {images} benign training images "
        "that this was fitted on."
    )


def note(card: Card) -> str:
    """Explain the table of detectors."""
    aware = any(part.attack in _ADAPTIVE for row in card.attacks.values() for part in row.settings.nested())
    return _NOTE + (_MIXED if aware else _BLIND)


def settings(card: Card) -> list[tuple[str, str, dict[str, str]]]:
    """Return each detector's name, class and settings."""
    return [
        (
            plain(name),
            plain(found.settings.get("detector", "detector")),
            {plain(key): setting(value) for key, value in found.settings.items()},
        )
        for name, found in card.detectors.items()
    ]
