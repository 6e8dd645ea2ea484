"""Gradient and logit queries of the attacks, with checks for missing and non-finite gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from robustseg.attacks.errors import ModelErrors, NoGradientError, NonFiniteGradientError
from robustseg.attacks.guard import Model

NO_GRADIENT = (
    "the model's output does not depend on its input for autograd (no_grad, argmax or a detached step inside?): "
    "a gradient attack cannot judge this model."
)

LEAVE_EVERY = 10
"""Gradients or queries between two checks for finished images; a check waits for the device."""


def input_gradient(value: Tensor, point: Tensor, retain_graph: bool = False) -> Tensor:
    """Compute the gradient of a scalar with respect to ``point`` only, without weight gradients.

    Raises:
        NoGradientError: The scalar does not depend on ``point``.
        AttackError: The backward raised an exception, see :class:`~robustseg.attacks.errors.ModelErrors`.
    """
    if not value.requires_grad:
        raise NoGradientError(NO_GRADIENT)
    with ModelErrors("the model's backward"):
        (grad,) = torch.autograd.grad(value, point, retain_graph=retain_graph, allow_unused=True)
    if grad is None:
        raise NoGradientError(NO_GRADIENT)
    return grad


def logits_only(model: Model, images: Tensor) -> Tensor:
    """Return the model's logits without an autograd graph."""
    with torch.no_grad():
        return model(images)


def refuse_non_finite(slopes: Tensor) -> None:
    """Refuse gradients that are not finite: the sign of NaN is 0, so the model would seem robust.

    The check waits for the device: call it at the end of an attack.

    Args:
        slopes: Sum of all gradients, or another value that is not finite if any gradient is not.

    Raises:
        NonFiniteGradientError: The sum is not finite.
    """
    if not bool(torch.isfinite(slopes)):
        raise NonFiniteGradientError(
            "the attack met gradients that are not finite: the model overflows or divides by zero on these images; "
            "run it in float32 and look for non-finite logits or weights."
        )
