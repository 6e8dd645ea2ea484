"""Experiments with the input gradient: zeros, saturation of the softmax, and agreement with the slope of the loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustseg.attacks.checks import check_logits
from robustseg.attacks.gradients import input_gradient
from robustseg.attacks.losses.base import IGNORED
from robustseg.attacks.losses.pixelwise import CrossEntropy
from robustseg.evaluation.checks.subject import Evidence, Subject, number, signs, spread

LEVEL = 1 / 255
"""One grey level of an 8-bit image."""

STEPS = {"small": LEVEL / 16, "half_level": LEVEL / 2}
"""Steps along a direction.

The small one shows the slope of any smooth model, and is far above float32's resolution of a sum over an image. Half a
level crosses an edge of the staircase of 8-bit rounding; the small step sees only its flat part.
"""

SMOOTHING = 9
"""Side in pixels of the mean filter for the smooth direction, larger than the details that preprocessing removes."""


def probe_gradients(subject: Subject) -> Evidence:
    """Measure zeros, non-finite entries, saturation, and the slope along two directions."""
    # The steps below must stay in [0, 1], since models may clamp; zeros are counted on the same images.
    margin = max(STEPS.values())
    images = subject.images.clamp(margin, 1 - margin)
    grad, saturated = _gradients(subject, images)
    entries = subject.valid.unsqueeze(1).expand_as(grad)
    per_image = entries.flatten(1).sum(1)
    finite = grad.isfinite()
    zero = (grad == 0) & entries
    evidence: Evidence = {
        "zero": spread(zero.flatten(1).sum(1) / per_image),
        "non_finite": spread((~finite & entries).flatten(1).sum(1) / per_image),
        "saturated": spread(saturated),
    }
    if not bool(finite.all()):
        return evidence
    evidence["zero_matters"] = _zero_matters(subject, images, grad == 0) if bool(zero.any()) else None
    evidence["slope"] = _slopes(subject, images, grad)
    return evidence


def _gradients(subject: Subject, images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute each image's gradient of the summed cross-entropy, and its share of pixels with a saturated softmax."""
    grads, shares = [], []
    for rows in subject.rows():
        point = images[rows].clone().requires_grad_()
        targets = subject.targets[rows]
        logits = check_logits(subject.differentiable(point), point, targets)
        grads.append(input_gradient(CrossEntropy()(logits, targets, 0.0).sum(), point))
        shares.append(saturated_share(logits.detach(), targets))
    return torch.cat(grads), torch.cat(shares)


def saturated_share(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the share of an image's valid pixels with a gradient of exactly 0 from the cross-entropy to the logits.

    That gradient is softmax − one-hot. In float32 the true class's entry vanishes from a margin of about 17 on. The
    other entries vanish only from about 87 on, or 103 with denormal numbers, which no training reaches.

    Args:
        logits: B×C×H×W.
        targets: B×H×W, :data:`~robustseg.attacks.losses.base.IGNORED` where ignored.

    Returns:
        B float64 in [0, 1].
    """
    probabilities = logits.float().softmax(1)
    true = targets.clamp_min(0).unsqueeze(1)
    sure = probabilities.gather(1, true) == 1
    rest = probabilities.scatter(1, true, 0.0).amax(1, keepdim=True) == 0
    valid = targets != IGNORED
    return ((sure & rest).squeeze(1) & valid).flatten(1).sum(1).double() / valid.flatten(1).sum(1)


def _zero_matters(subject: Subject, images: Tensor, zero: Tensor) -> float | None:
    """Compare the change of the logits by a step on entries without gradient with that by a step on all entries.

    The result is their ratio. A pixel without gradient may be harmless: a model that shrinks its images may not read
    it.
    """
    (sign,) = signs(images, subject.seed)
    clean = subject.logits(images)
    part, everything = (
        (subject.logits((images + 2 * LEVEL * sign * where).clamp(0, 1)) - clean).abs().mean(dtype=torch.float64)
        for where in (zero, torch.ones_like(zero))
    )
    return number(part / everything) if everything > 0 else 0.0


def _slopes(subject: Subject, images: Tensor, grad: Tensor) -> Evidence:
    """Measure the slope of the loss along a direction by the gradient and by a central difference, at two step sizes.

    ``disagreement`` is Σ|measured − predicted| / Σ max(|measured|, |predicted|) over the images: 0 if the gradient is
    the slope, 1 if one of the two is zero. The rough direction is the gradient's sign, the smooth one the blurred
    gradient's. With a detached part in its preprocessing, a model can be right along one of them only.
    """
    (sign,) = signs(images, subject.seed)
    blurred = F.avg_pool2d(grad, SMOOTHING, stride=1, padding=SMOOTHING // 2)
    evidence: Evidence = {}
    for name, slope in (("rough", grad), ("smooth", blurred)):
        direction = torch.where(slope == 0, sign, slope.sign())
        predicted = (grad.double() * direction).flatten(1).sum(1)
        for step_name, step in STEPS.items():
            ahead, behind = (subject.losses(images + side * step * direction) for side in (1, -1))
            measured = (ahead - behind) / (2 * step)
            largest = torch.maximum(measured.abs(), predicted.abs())
            disagreement = (measured - predicted).abs().sum() / largest.sum() if largest.sum() > 0 else 0.0
            evidence[f"{name}_{step_name}"] = {
                "disagreement": number(disagreement),
                "predicted": number(predicted.mean()),
                "measured": number(measured.mean()),
            }
    return evidence
