"""The few calls by which attacks ask a model for gradients and answers, and how they notice that these are useless."""

from __future__ import annotations

import torch
from torch import Tensor

from robustseg.attacks.guard import Model, NoGradientError, NonFiniteGradientError

NO_GRADIENT = (
    "the model's output does not depend on its input for autograd (no_grad, argmax or a detached step inside?): "
    "a gradient attack cannot judge this model."
)

LEAVE_EVERY = 10
"""Gradients or queries between two looks for images that are finished; looking waits for the device."""


def input_gradient(value: Tensor, point: Tensor, retain_graph: bool = False) -> Tensor:
    """The gradient of a scalar with respect to ``point``, and of nothing else: no weight gradients.

    Raises:
        NoGradientError: The scalar does not depend on ``point``.
    """
    (grad,) = torch.autograd.grad(value, point, retain_graph=retain_graph, allow_unused=True)
    if grad is None:
        raise NoGradientError(NO_GRADIENT)
    return grad


def logits_only(model: Model, images: Tensor) -> Tensor:
    """The model's answer, without a graph."""
    with torch.no_grad():
        return model(images)


def refuse_non_finite(slopes: Tensor) -> None:
    """For the end of an attack, since it waits: the sign of NaN is 0, which would pass for robust.

    Args:
        slopes: Sum of all gradients, or of anything that is not finite where one of them is not.

    Raises:
        NonFiniteGradientError: It is not finite.
    """
    if not bool(torch.isfinite(slopes)):
        raise NonFiniteGradientError(
            "the attack met gradients that are not finite: the model overflows or divides by zero on these images; "
            "run it in float32 and look for non-finite logits or weights."
        )
