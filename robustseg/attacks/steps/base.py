"""Interface of the step rules. A rule's state is passed as an argument, never kept on the rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from robustseg.attacks.settings import Checked
from robustseg.attacks.threat import AllowedSet

StepState = dict[str, Any]
"""State of a rule between steps; the first dimension of every tensor is the images of the working batch."""


class StepRule(Checked, ABC):
    """Rule that moves an iterate along the gradient of the quantity that the attack increases."""

    def init(self, images_adv: Tensor, allowed: AllowedSet, steps: int) -> StepState:
        """Return the state before the first of ``steps`` steps from ``images_adv``; empty by default."""
        return {}

    def look_ahead(self, images_adv: Tensor, state: StepState, allowed: AllowedSet) -> Tensor:
        """Return the point of the next gradient, B×3×H×W; by default the iterate itself.

        Returning the same tensor object tells the loop that the model's logits are those of the iterate; a rule that
        wraps another one must pass the object on.
        """
        return images_adv

    @abstractmethod
    def update(self, images_adv: Tensor, grad: Tensor, loss: Tensor, state: StepState, allowed: AllowedSet) -> Tensor:
        """Compute the next iterate, B×3×H×W, which the caller projects.

        Args:
            images_adv: B×3×H×W, the current iterate.
            grad: B×3×H×W, gradient of the increased quantity.
            loss: B values of the increased quantity, or of the loss that the attack watches instead.
            state: State of the rule, changed in place.
            allowed: The allowed set.
        """
