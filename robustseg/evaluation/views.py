"""What else looks at the images of an evaluation, beside the scored models: numbers for each image, as records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from robustseg.attacks import AttackStep
from robustseg.attacks.guard import Model
from robustseg.evaluation.evaluator import Outcome
from robustseg.types import Batch


class Look(ABC):
    """One view of one batch under one attack."""

    def step(self, step: AttackStep) -> None:  # noqa: B027
        """Called after each gradient of the attack, for a view that watches."""

    @abstractmethod
    def finish(self, outcome: Outcome) -> Sequence[Tensor]:
        """What was seen.

        Args:
            outcome: Of the attack; for the name "clean" that of no attack.

        Returns:
            B vectors of float64, as long as the view likes.
        """


class View(ABC):
    """Something that looks at images, clean and adversarial, and notes numbers for each of them."""

    watches = False
    """Whether it looks at the steps of attacks as well."""

    def wants(self, attack: str) -> bool:
        """Whether it looks at the images of an attack, or at the clean ones for the name "clean"."""
        return True

    @abstractmethod
    def begin(self, model: Model, batch: Batch, scored: Mapping[str, Model]) -> Look:
        """Look at a batch, before it is attacked.

        Args:
            model: The attacked model.
            batch: The clean images.
            scored: The models whose answers are scored, by the names of their records.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """All settings, as plain JSON: numbers of a view of other settings are not taken for its own."""


def seen_name(attack: str, view: str) -> str:
    """Name of the records of what a view noted."""
    return f"{attack} seen by {view}"


def view_settings(views: Mapping[str, View]) -> dict[str, dict[str, Any]]:
    """``describe()`` of views, under names that no attack's settings have."""
    return {f"view {name}": view.describe() for name, view in views.items()}
