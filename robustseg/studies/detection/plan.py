"""The plan of the study of detection: plain and adaptive attacks, and the detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from robustseg.attacks import Attack

Kind = Literal["plain", "blurred", "both", "patches", "redrawn"]
"""Kind of an attack, by the answers of the model that it considers.

These are its answers to the image alone (plain), to the blurred image alone (blurred), to both (both), or to the image
and to patches of it, drawn once (patches) or at each step (redrawn).
"""
ADVERSARIES: dict[Kind, str] = {
    "plain": "plain",
    "blurred": "through the blur",
    "both": "with and through the blur",
    "patches": "on patches",
    "redrawn": "on patches drawn at each step",
}
SCALE: tuple[Kind, ...] = ("plain", "blurred", "both")
"""Kinds of attacks that scale consistency is tested on."""
SPATIAL: tuple[Kind, ...] = ("plain", "patches", "redrawn")
"""Kinds of attacks that spatial consistency is tested on."""


class Variant(NamedTuple):
    """An attack towards a target map."""

    record: str
    """Name of its records."""
    combination: str
    """Name of the combination of attack and target map."""
    kind: Kind
    level: float
    """σ in pixels, or K; 0 for the plain attack."""
    attack: Attack


class DetectorRow(NamedTuple):
    """A detector, and the place of its scores in the measurements."""

    name: str
    """Name in tables."""
    view: str
    parts: int | None
    """Number of leading parts in the mean that is the score; None for all."""
    level: float
    """σ in pixels, or K."""
    against: tuple[Kind, ...]


@dataclass(frozen=True)
class Plan:
    """The attacks, detectors and views of a study of detection."""

    variants: Sequence[Variant]
    detectors: Sequence[DetectorRow]
    transferred: Sequence[str]
    """Combinations whose images all models are scored on."""
    curve_steps: Sequence[int]
    curve_view: str
    """Name of the view of the consistency at the steps of attacks."""
    entropy_view: str
    """Name of the view of the pixels' self-entropy."""
    detected_on: Sequence[str] | None
    """Names of the models with detectors; None for all."""

    @property
    def combinations(self) -> list[str]:
        """The combinations of attack and target map, each once."""
        return list(dict.fromkeys(variant.combination for variant in self.variants))

    def plain(self, combinations: Sequence[str] | None = None) -> list[Variant]:
        """Return the plain attacks of some combinations, or of all."""
        chosen = self.combinations if combinations is None else combinations
        return [variant for variant in self.variants if variant.kind == "plain" and variant.combination in chosen]

    def records(self, *kinds: Kind) -> list[str]:
        """Return the names of the records of some kinds of attacks."""
        return [variant.record for variant in self.variants if variant.kind in kinds]

    def is_detected_on(self, source: str) -> bool:
        """Return True if detectors are tested on a model."""
        return self.detected_on is None or source in self.detected_on
