"""Flags on the model itself: its outputs, its input and its gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robustseg.evaluation.card import Card, Flag
from robustseg.evaluation.checks.flag import (
    NOT_PROBED,
    Finding,
    flag_of,
    percent,
    points,
    probe_evidence,
    worst_finding,
)
from robustseg.evaluation.checks.settings import white_box

RANDOM_PIXELS = 1e-3
"""Most pixels with another prediction at the second time: rounding flips single ties, not one in a thousand."""
RANDOM_LOGITS = 1e-2
"""Most difference in standard deviations of the logits: sums in another order, as on a GPU, give about 1e-5."""
UNSTEADY_LOGITS = 1e-4
"""Difference, in the same unit, from which on it is mentioned."""
SUM_TOLERANCE = 1e-3
"""Most relative deviation of the sum over channels for outputs to count as probabilities; float16 has 5e-4."""
TIED_PIXELS = 0.05
"""Most pixels with tied logits: ties are rare in trained logits, and frequent after a rounding or a step function."""

RECORD_TOLERANCE = 0.005
"""Most difference of the clean mIoU from the record's: precision and batch size change it by a tenth of that."""
BETTER_EVERYWHERE = 0.02
"""Gain in pixel accuracy, on every probe image, from which on other inputs count as the expected ones."""
BETTER_CLEARLY = 0.05
"""Gain from which on three quarters of the images suffice: an honest model's images rarely agree that far."""
ENOUGH_IMAGES = 4
"""Least number of images for this evidence: fewer agree by accident."""

ZERO_SHARE = 0.1
"""Most zero entries in the median image's input gradient; networks that read every pixel have none."""
ZERO_MATTERS = 0.1
"""Most change of the logits by entries without gradient, relative to the change by all entries."""
SATURATED_SHARE = 0.05
"""Most pixels with a gradient of exactly 0 to the logits.

This needs margins above 100, and trained logits have margins of about 10.
"""
SLOPE_DISAGREEMENT = 0.25
"""Most disagreement between slope and gradient, see ``probe_gradients``.

A preprocessing with a detached third gives this much, a smooth model 0.02 at the small step.
"""
NO_SLOPE = 0.9
"""Disagreement at half a level from which on slope and gradient are unrelated."""
WEAKENED = 0.5
"""Least share of the damage with rescaled logits that the attack does with the model's own logits."""
WEAKENED_POINTS = 0.05
"""Least difference of the two damages, so that small differences of small damages do not count."""


def judge_answers(card: Card) -> Flag:
    """1: logits, the same for the same image."""
    found = probe_evidence(card, "answers")
    if found is None:
        finding = NOT_PROBED
    else:
        finding = worst_finding(
            list(_answer_findings(found)), "The model is in eval mode, gives logits, and the same for the same image."
        )
    return flag_of(1, "answers", finding, found)


def _answer_findings(found: Mapping[str, Any]) -> Iterator[Finding]:
    if "error" in found:
        yield Finding("unreliable", f"The model could not be asked for logits ({found['error']}): mend the model.")
        return
    if found["non_finite"]:
        yield Finding("unreliable", "Logits are not finite on clean images: run in float32 and look at the weights.")
        return
    low, high = found["channel_sum"]
    spread = high - low
    if found["constant"]:
        yield Finding("unreliable", "All logits are equal: the model says nothing, check its weights.")
    elif found["two_values"]:
        yield Finding(
            "unreliable",
            "The model returns decisions (argmax, one-hot), which have no gradient: return the logits.",
        )
    elif found["lowest"] >= -SUM_TOLERANCE * abs(high) and spread <= SUM_TOLERANCE * abs(high):
        yield Finding(
            "unreliable",
            "The model returns probabilities, and attacks take their softmax once more: return what comes before it.",
        )
    elif found["lowest"] >= 0 and found["highest"] <= 1:
        yield Finding("caution", "All logits lie in [0, 1], as those behind a sigmoid do: return what comes before it.")
    yield from _agreement(found["repeated"], "two forwards on the same images", "average over its randomness (EOT)")
    if found["alone"] is not None:
        yield from _agreement(found["alone"], "an image alone and in its batch", "take batch statistics out")
    if found["tied_pixels"] > TIED_PIXELS:
        yield Finding(
            "caution",
            f"{percent(found['tied_pixels'])} of the pixels have two largest logits: is something rounded?",
        )


def _agreement(difference: Mapping[str, float], what: str, remedy: str) -> Iterator[Finding]:
    if difference["pixels"] > RANDOM_PIXELS or difference["relative"] > RANDOM_LOGITS:
        yield Finding(
            "unreliable",
            f"The model disagrees with itself between {what} ({percent(difference['pixels'])} of the pixels): attacks "
            f"chase a moving target; make it deterministic, or {remedy}.",
        )
    elif difference["relative"] > UNSTEADY_LOGITS:
        yield Finding("caution", f"Logits differ between {what} more than rounding explains: look for randomness.")


def judge_clean(card: Card) -> Flag:
    """2: the clean figure is the checkpoint's own, and the images are those that the model expects."""
    found = probe_evidence(card, "inputs")
    data = card.data
    reference = (card.checks or {}).get("reference_miou")
    clean = card.clean["miou"]
    full = data.images == data.split_images and data.ids is None
    if card.protocol.targets != "labels":
        said = [name for name, iou in card.clean.class_iou.items() if iou is not None]
        return flag_of(2, "clean record and input", _own_answer(said), {"clean_miou": clean, "classes": said})
    findings = [] if found is None else list(_input_findings(found))
    if reference is not None and clean is not None and full and abs(clean - reference) >= RECORD_TOLERANCE:
        findings.append(
            Finding(
                "unreliable",
                f"Clean miou is {percent(clean)}, but the checkpoint's record says {percent(reference)}: look for "
                "other weights, another image size or normalisation, or other data.",
            )
        )
    record = (
        "the clean miou is that of the checkpoint's record"
        if full
        else "the checkpoint's record is one of the full split and was not compared"
    )
    record = "the checkpoint has no record to compare with" if reference is None else record
    if found is None and not findings:
        findings.append(NOT_PROBED)
    good = f"The model does best on the images as they are, and {record}."
    finding = worst_finding(findings, good)
    evidence = {"clean_miou": clean, "reference_miou": reference, "inputs": found}
    return flag_of(2, "clean record and input", finding, evidence)


def _own_answer(classes: Sequence[str]) -> Finding:
    """Judge clean predictions that are the targets themselves, by the classes in them."""
    if len(classes) == 1:
        return Finding(
            "unreliable",
            f"The model's clean answer is {classes[0]} everywhere: what is left of it under attack says nothing; check "
            "the checkpoint and the images.",
        )
    line = "The targets are the model's own predictions: neither a record nor other inputs can be compared with them."
    return Finding("not checked", line)


_INPUTS = {
    "times_255": "in 0..255",
    "over_255": "divided by 255 once more",
    "inverted": "inverted",
    "centred": "in [-1, 1]",
    "bgr": "with red and blue exchanged",
    "normalised": "normalised with ImageNet's mean and std",
    "unnormalised": "without the normalisation that it makes",
}


def _input_findings(found: Mapping[str, Any]) -> Iterator[Finding]:
    if "error" in found:
        yield Finding("unreliable", f"The model could not be scored on the probe images: {found['error']}")
        return
    scored = {name: row for name, row in found["variants"].items() if "error" not in row}
    for name in sorted(scored, key=lambda name: -scored[name]["pixel_acc"]):
        gain, share = scored[name]["pixel_acc"] - found["as_is"], scored[name]["better_on"] / found["images"]
        if (gain > BETTER_EVERYWHERE and share == 1) or (gain > BETTER_CLEARLY and share >= 0.75):
            yield Finding(
                "unreliable" if found["images"] >= ENOUGH_IMAGES else "caution",
                f"The model is {points(gain)} better on images {_INPUTS.get(name, name)}: it was trained on other "
                "inputs; correct mean, std or the order of the channels.",
            )


def judge_gradients(card: Card) -> Flag:
    """3: the gradient is there, is the slope of the loss, and is not lost in the softmax."""
    refused = {name: row.error for name, row in card.attacks.items() if row.error is not None and white_box(row)}
    found, white = probe_evidence(card, "gradients"), probe_evidence(card, "white_box")
    findings = []
    if refused:
        name, error = next(iter(refused.items()))
        findings.append(Finding("unreliable", f"{name} could not run on this model: {error}"))
    if found is not None:
        findings += [*_gradient_findings(found), *_scale_findings(white)]
    elif not findings:
        findings.append(NOT_PROBED)
    finding = worst_finding(findings, "The input gradient is nowhere missing and is the slope of the loss.")
    evidence = {"gradients": found, "white_box": white, "refused": refused}
    return flag_of(3, "gradients", finding, evidence)


def _gradient_findings(found: Mapping[str, Any]) -> Iterator[Finding]:
    if "error" in found:
        yield Finding("unreliable", f"There is no gradient to follow: {found['error']}")
        return
    if found["non_finite"]["max"] > 0:
        yield Finding("unreliable", "Input gradients are not finite: gradient attacks do not move on such images.")
        return
    if found["saturated"]["median"] > SATURATED_SHARE:
        yield Finding(
            "unreliable",
            f"On {percent(found['saturated']['median'])} of the pixels the softmax is saturated and gives no gradient: "
            "the logits are scaled up; divide them, or attack with a loss that does not depend on their scale.",
        )
    zero, matters = found["zero"]["median"], found["zero_matters"]
    if zero > ZERO_SHARE and matters is not None and matters > ZERO_MATTERS:
        yield Finding(
            "unreliable",
            f"{percent(zero)} of the input gradient is exactly zero although these pixels matter: something in the "
            "model is rounded, detached or not differentiable; replace its backward pass (BPDA).",
        )
    yield from _slope_findings(found["slope"])


def _slope_findings(slope: Mapping[str, Any]) -> Iterator[Finding]:
    for direction in ("rough", "smooth"):
        small, half = (slope[f"{direction}_{step}"]["disagreement"] for step in ("small", "half_level"))
        if min(small, half) > SLOPE_DISAGREEMENT or half > NO_SLOPE:
            yield Finding(
                "unreliable",
                "The loss does not change as its gradient says: something in the model is detached or quantised; "
                "replace its backward pass (BPDA).",
            )
            return
        if small > SLOPE_DISAGREEMENT:
            yield Finding(
                "caution",
                "The loss is a staircase in small steps, but rises as its gradient says in larger ones: check what "
                "the model rounds.",
            )


def _scale_findings(white: Mapping[str, Any] | None) -> Iterator[Finding]:
    if not white or "error" in white or not {"pgd", "pgd_rescaled"} <= white["attacks"].keys():
        return
    raw, rescaled = (white["clean"] - white["attacks"][name] for name in ("pgd", "pgd_rescaled"))
    if raw < WEAKENED * rescaled and rescaled - raw > WEAKENED_POINTS:
        yield Finding(
            "unreliable",
            f"The same attack costs {points(rescaled)} of pixel accuracy instead of {points(raw)} once the logits are "
            "divided by their margin: their scale hides the gradient; divide them.",
        )
