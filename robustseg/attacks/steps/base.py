"""The interface of every step rule. A rule's state is passed around, never kept on the rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from robustseg.attacks.threat import AllowedSet

StepState = dict[str, Any]
"""What a rule remembers; every tensor in it has the images of the working batch as its first dimension."""


class StepRule(ABC):
    """How an iterate moves along the gradient of the quantity that the attack increases."""

    def init(self, images_adv: Tensor, allowed: AllowedSet, steps: int) -> StepState:
        """State before the first of ``steps`` steps from ``images_adv``; empty by default."""
        return {}

    def look_ahead(self, images_adv: Tensor, state: StepState, allowed: AllowedSet) -> Tensor:
        """Where the gradient of the next step is taken: at the iterate itself by default.

        That very tensor says that the model's answer is the iterate's; a rule around another one passes it on.
        """
        return images_adv

    @abstractmethod
    def update(self, images_adv: Tensor, grad: Tensor, loss: Tensor, state: StepState, allowed: AllowedSet) -> Tensor:
        """The next iterate, which the caller projects.

        Args:
            images_adv: B×3×H×W, the current iterate.
            grad: B×3×H×W, the ascent direction's gradient at it.
            loss: B values of what is increased (or of what the attack watches instead), at it.
            state: The rule's own, changed in place.
            allowed: The allowed set.
        """
