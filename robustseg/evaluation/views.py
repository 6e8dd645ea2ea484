"""What else looks at the images of an evaluation, beside the scored models: numbers for each image, as records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from robustseg.attacks import AttackStep
from robustseg.attacks.guard import Model
from robustseg.evaluation.attacking import Outcome
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

    def begin(self, model: Model, batch: Batch, scored: Mapping[str, Model]) -> Look:
        """Look at a batch, before it is attacked; arguments as of :meth:`look`."""
        return _LookAfterwards(self, model, batch, scored)

    @abstractmethod
    def look(self, model: Model, batch: Batch, scored: Mapping[str, Model], outcome: Outcome) -> Sequence[Tensor]:
        """What is to be noted of a batch that was attacked.

        Args:
            model: The attacked model.
            batch: The clean images.
            scored: The models whose answers are scored, by the names of their records.
            outcome: Of the attack; for the name "clean" that of no attack.

        Returns:
            B vectors of float64, as long as the view likes.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """All settings, as plain JSON: numbers of a view of other settings are not taken for its own."""


class _LookAfterwards(Look):
    """Of a view that does not watch."""

    def __init__(self, view: View, model: Model, batch: Batch, scored: Mapping[str, Model]):
        self._view, self._model, self._batch, self._scored = view, model, batch, scored

    def finish(self, outcome: Outcome) -> Sequence[Tensor]:
        return self._view.look(self._model, self._batch, self._scored, outcome)


_SEEN_BY, _VIEW = " seen by ", "view "


def seen_name(attack: str, view: str) -> str:
    """Name of the records of what a view noted."""
    return f"{attack}{_SEEN_BY}{view}"


def view_settings(views: Mapping[str, View]) -> dict[str, dict[str, Any]]:
    """``describe()`` of views, under names that no attack's settings have."""
    return {f"{_VIEW}{name}": view.describe() for name, view in views.items()}


def refuse_names_of_views(attacks: Iterable[str]) -> None:
    """Refuse names of attacks that could be those of views.

    Raises:
        ValueError: There is one.
    """
    for name in attacks:
        if name.startswith(_VIEW) or _SEEN_BY in name:
            raise ValueError(f"an attack cannot be called {name!r}: what detectors see is kept under such names.")
