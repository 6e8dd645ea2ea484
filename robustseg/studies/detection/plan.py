"""What the study of detection measures: attacks that know of a detector or not, and the detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from robustseg.attacks import Attack

Kind = Literal["plain", "blurred", "both", "patches", "redrawn"]
"""What an attack knows: nothing; the blur, whose answer alone it attacks, or beside that to the image; that there are
patches, which it draws once, or at each step."""
ADVERSARIES: dict[Kind, str] = {
    "plain": "plain",
    "blurred": "through the blur",
    "both": "with and through the blur",
    "patches": "on patches",
    "redrawn": "on patches drawn at each step",
}
SCALE: tuple[Kind, ...] = ("plain", "blurred", "both")
"""Attacks that scale consistency is held against."""
SPATIAL: tuple[Kind, ...] = ("plain", "patches", "redrawn")
"""Attacks that spatial consistency is held against."""


class Variant(NamedTuple):
    """An attack towards a target."""

    record: str
    """Name of its records."""
    combination: str
    """Of attack and target."""
    kind: Kind
    level: float
    """σ in pixels or K; 0 of the plain attack."""
    attack: Attack


class DetectorRow(NamedTuple):
    """A detector, and where its scores are found."""

    name: str
    """In tables."""
    view: str
    parts: int | None
    """Number of parts that the score is the mean of; None for all."""
    level: float
    """σ in pixels or K."""
    against: tuple[Kind, ...]


@dataclass(frozen=True)
class Plan:
    """All of a study of detection."""

    variants: Sequence[Variant]
    detectors: Sequence[DetectorRow]
    transferred: Sequence[str]
    """Combinations whose images are shown to all models."""
    curve_steps: Sequence[int]
    curve_view: str
    """Name of what watches the consistency at the steps of attacks."""
    entropy_view: str
    """Name of what notes the self-entropy of pixels."""
    detected_on: Sequence[str] | None
    """Names of the models that detectors are put in front of; None for all."""

    @property
    def combinations(self) -> list[str]:
        """Of attack and target, each once."""
        return list(dict.fromkeys(variant.combination for variant in self.variants))

    def plain(self, combinations: Sequence[str] | None = None) -> list[Variant]:
        """The plain attacks of some combinations, or of all."""
        chosen = self.combinations if combinations is None else combinations
        return [variant for variant in self.variants if variant.kind == "plain" and variant.combination in chosen]

    def records(self, *kinds: Kind) -> list[str]:
        """Names of the records of some kinds of attacks."""
        return [variant.record for variant in self.variants if variant.kind in kinds]

    def is_detected_on(self, source: str) -> bool:
        """Whether detectors are put in front of a model."""
        return self.detected_on is None or source in self.detected_on
