"""Experiments with the model's outputs: are they logits, are they repeatable, are the images as the model expects."""

from __future__ import annotations

import torch
from torch import Tensor

from robustseg.attacks import AttackError
from robustseg.evaluation.checks.subject import Evidence, Subject, median_margin, number

REPEATS = 5
"""Forwards after the first: a model that is random with probability ½ agrees with itself in one case of 32."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def probe_answers(subject: Subject) -> Evidence:
    """Examine the numbers that the model returns, and if they are the same for the same images.

    All forwards are within one attack mode. Each attack mode restores the global random state, so in two of them the
    outputs of a model that draws from it would agree by accident.
    """
    logits = subject.raw_logits(subject.images)
    finite = logits.isfinite()
    if not bool(finite.all()):
        return {"non_finite": number((~finite).double().mean())}
    lowest, highest = logits.min(), logits.max()
    sums = logits.double().sum(1)
    evidence: Evidence = {
        "non_finite": 0.0,
        "lowest": number(lowest),
        "highest": number(highest),
        "channel_sum": [number(sums.min()), number(sums.max())],
        # Over all images: with two classes, each pixel has at most two values.
        "two_values": bool(((logits == lowest) | (logits == highest)).all()),
        "constant": bool(lowest == highest),
        "tied_pixels": number(_tied(logits)),
        "median_margin": number(median_margin(logits).median()),
    }
    others = [subject.raw_logits(subject.images) for _ in range(REPEATS)]
    evidence["repeated"] = _difference(logits, others)
    several = len(subject.images) > 1 and subject.batch_size > 1
    alone = subject.raw_logits(subject.images, batch_size=1) if several else None
    evidence["alone"] = None if alone is None else _difference(logits, [alone])
    return evidence


def _tied(logits: Tensor) -> Tensor:
    """Compute the share of pixels whose largest logit occurs twice."""
    top = logits.topk(min(2, logits.shape[1]), dim=1).values
    return (top[:, 0] == top[:, -1]).double().mean()


def _difference(logits: Tensor, others: list[Tensor]) -> Evidence:
    """Compute the largest difference in standard deviations of the logits, and the share of changed predictions."""
    scale = logits.double().std().clamp_min(torch.finfo(torch.float32).tiny)
    largest = max(float((other - logits).abs().max()) for other in others)
    prediction = logits.argmax(1)
    pixels = max(float((other.argmax(1) != prediction).double().mean()) for other in others)
    return {"relative": number(largest / scale), "pixels": number(pixels)}


def probe_inputs(subject: Subject) -> Evidence:
    """Compute the pixel accuracy on the images as they are, and on variants that a model might expect instead.

    ``better_on`` counts the images on which a variant is better: on one image it may be so by accident, but not on all.
    """
    images = subject.images
    mean = images.new_tensor(IMAGENET_MEAN).view(1, -1, 1, 1)
    std = images.new_tensor(IMAGENET_STD).view(1, -1, 1, 1)
    variants = {"times_255": images * 255, "over_255": images / 255, "inverted": 1 - images, "centred": 2 * images - 1}
    if images.shape[1] == len(IMAGENET_MEAN):
        variants |= {
            "bgr": images.flip(1),
            "normalised": (images - mean) / std,
            "unnormalised": images * std + mean,
        }
    evidence: Evidence = {"as_is": number(subject.clean.mean()), "images": len(images), "variants": {}}
    for name, variant in variants.items():
        try:
            found = subject.accuracies(variant)
        except AttackError as error:
            # A model may refuse values outside of [0, 1].
            evidence["variants"][name] = {"error": str(error)}
        else:
            better = int((found > subject.clean).sum())
            evidence["variants"][name] = {"pixel_acc": number(found.mean()), "better_on": better}
    return evidence
