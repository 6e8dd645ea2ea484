"""Views of an evaluation's images: further values of each image, stored as records beside the scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from robustseg.attacks import AttackStep
from robustseg.attacks.guard import Model
from robustseg.evaluation.attacking import Outcome
from robustseg.types import Batch


class Look(ABC):
    """The observation of one batch under one attack by a view."""

    def step(self, step: AttackStep) -> None:  # noqa: B027
        """Observe a step; called after each gradient of the attack if the view has ``watches``."""

    @abstractmethod
    def finish(self, outcome: Outcome) -> Sequence[Tensor]:
        """Return the values of each image.

        Args:
            outcome: The attack's result; for "clean", the clean images.

        Returns:
            B float64 vectors of any length.
        """


class View(ABC):
    """A measurement that records values of each image, clean and adversarial."""

    watches = False
    """True if it also observes the steps of attacks."""

    def wants(self, attack: str) -> bool:
        """Return True if the view measures the images of an attack; the clean ones have the name "clean"."""
        return True

    def begin(self, model: Model, batch: Batch, scored: Mapping[str, Model]) -> Look:
        """Start to observe a batch before it is attacked; the arguments are those of :meth:`look`."""
        return _LookAfterwards(self, model, batch, scored)

    @abstractmethod
    def look(self, model: Model, batch: Batch, scored: Mapping[str, Model], outcome: Outcome) -> Sequence[Tensor]:
        """Compute the values of a batch that was attacked.

        Args:
            model: The attacked model.
            batch: The batch, with the clean images B×3×H×W.
            scored: The scored models, by the names in their records.
            outcome: The attack's result; for "clean", the clean images.

        Returns:
            B float64 vectors of any length.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return all settings as plain JSON; records of a view with other settings are refused."""


class _LookAfterwards(Look):
    """The observation by a view that ignores the steps of attacks."""

    def __init__(self, view: View, model: Model, batch: Batch, scored: Mapping[str, Model]):
        self._view, self._model, self._batch, self._scored = view, model, batch, scored

    def finish(self, outcome: Outcome) -> Sequence[Tensor]:
        return self._view.look(self._model, self._batch, self._scored, outcome)


_SEEN_BY, _VIEW = " seen by ", "view "


def seen_name(attack: str, view: str) -> str:
    """Return the name of a view's records for an attack."""
    return f"{attack}{_SEEN_BY}{view}"


def view_settings(views: Mapping[str, View]) -> dict[str, dict[str, Any]]:
    """Return ``describe()`` of views, under names that no attack can have."""
    return {f"{_VIEW}{name}": view.describe() for name, view in views.items()}


def is_of_views(name: str) -> bool:
    """Return whether a name is reserved for the records of views."""
    return name.startswith(_VIEW) or _SEEN_BY in name
