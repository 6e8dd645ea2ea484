"""Experiments with the model's answers: logits or not, the same twice, and on the images that it expects."""

from __future__ import annotations

import torch
from torch import Tensor

from robustseg.attacks import AttackError
from robustseg.evaluation.checks.subject import Evidence, Subject, median_margin, number

REPEATS = 5
"""Forwards beside the first: a model that draws lots with probability ½ agrees with itself in one case of 32."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def probe_answers(subject: Subject) -> Evidence:
    """What kind of numbers the model returns, and whether they are the same for the same images.

    All forwards happen within one attack mode, since each attack mode puts the global random state back: two calls of
    a model that draws from it would agree by accident.
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
        # Over all images: with two classes any pixel by itself has at most two values.
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
    """Share of pixels whose largest logit occurs twice."""
    top = logits.topk(min(2, logits.shape[1]), dim=1).values
    return (top[:, 0] == top[:, -1]).double().mean()


def _difference(logits: Tensor, others: list[Tensor]) -> Evidence:
    """Largest difference in units of the logits' standard deviation, and the share of pixels predicted differently."""
    scale = logits.double().std().clamp_min(torch.finfo(torch.float32).tiny)
    largest = max(float((other - logits).abs().max()) for other in others)
    prediction = logits.argmax(1)
    pixels = max(float((other.argmax(1) != prediction).double().mean()) for other in others)
    return {"relative": number(largest / scale), "pixels": number(pixels)}


def probe_inputs(subject: Subject) -> Evidence:
    """Pixel accuracy on the images as they are and as a model might expect them instead.

    ``better_on`` counts the images on which a variant is better: one image may be so by accident, not all.
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
            # A model may well refuse what is outside of [0, 1].
            evidence["variants"][name] = {"error": str(error)}
        else:
            better = int((found > subject.clean).sum())
            evidence["variants"][name] = {"pixel_acc": number(found.mean()), "better_on": better}
    return evidence
