"""Flags on the protocol: the budget, the choice of losses and the sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from robustseg.evaluation.card import AttackSettings, Card, Flag
from robustseg.evaluation.checks.flag import Finding, flag_of, points, worst_finding
from robustseg.evaluation.checks.settings import losses_of, threat_of, untargeted, white_box
from robustseg.types import parse_fraction

LINF_ROUNDING = 2.0**-23
"""Most excess that float32 explains: images in [0, 1] are multiples of at most 2⁻²⁴, and a sum is rounded once more."""
L2_ROUNDING = 1e-6
"""Most excess for l2 and rms, relative to ε; attacks of this package correct even that."""
HALF_LEVEL = 0.5 / 255
"""Most change of a pixel by rounding to 8 bits."""
FEW = 30
"""Least number of images for a meaningful interval from resampling: with a single image it has no width."""
NARROW = 0.01
"""Most half width of an interval for a named part of a split to represent the whole.

The papers' tables are compared in whole points.
"""


def judge_budget(card: Card) -> Flag:
    """4: no perturbation is larger than allowed."""
    findings: list[Finding] = []
    evidence: dict[str, dict[str, Any]] = {}
    rounded = []
    for name, row in card.ran.items():
        threat = threat_of(row)
        if threat is None:
            continue
        eps, norm = float(parse_fraction(threat[0])), threat[1]
        size, stored = row[f"{norm}_max"], row[f"{norm}_max_8bit"]
        evidence[name] = {"eps": threat[0], "norm": norm, "max": size, "max_8bit": stored}
        findings += list(_budget_findings(name, eps, threat[0], norm, size, stored))
        if stored is not None and stored > _allowed(threat[0], norm):
            rounded.append(name)
    good = "Every perturbation is within its budget."
    if not evidence:
        good = "No attack has a budget, so that none can be broken."
    if rounded:
        good = (
            "Every perturbation is within its budget; saved as 8-bit images those of "
            f"{', '.join(rounded)} would be up to half a grey level larger, so publish them as floats."
        )
    finding = worst_finding(findings, good)
    return flag_of(4, "budget", finding, evidence)


def _allowed(eps: str, norm: str) -> float:
    radius = float(parse_fraction(eps))
    return radius + (LINF_ROUNDING if norm == "linf" else L2_ROUNDING * radius)


def _budget_findings(
    name: str, eps: float, exact: str, norm: str, size: float | None, stored: float | None
) -> Iterator[Finding]:
    if size is None:
        yield Finding("not checked", f"The size of {name}'s perturbations was not measured: evaluate again.")
    elif size > _allowed(exact, norm):
        yield Finding(
            "unreliable",
            f"{name} changes images by {size:.6g} in {norm}, more than the allowed {exact} = {eps:.6g}: its figures "
            "are those of another budget; project its result.",
        )
    elif norm == "linf" and stored is not None and stored > _allowed(exact, norm) + HALF_LEVEL:
        yield Finding(
            "unreliable",
            f"Rounded to 8 bit, {name} changes images by {stored:.6g}, more than {exact} and half a grey level: the "
            "budget was not measured from the images that were given.",
        )


def judge_losses(card: Card) -> Flag:
    """8: more than one loss, and not only the one that the model was trained against."""
    losses: set[str] = set()
    for row in card.ran.values():
        if threat_of(row) is not None and untargeted(row) and white_box(row):
            losses |= losses_of(row.settings)
    trained_with = card.model.trained_with
    # FGSM's loss too: the training attack may be of one step.
    trained = losses_of(trained_with, one_step=True) if isinstance(trained_with, AttackSettings) else set()
    findings = []
    if not losses:
        findings.append(
            Finding("caution", "No attack of several steps follows the gradient: add two, with different losses.")
        )
    elif losses <= trained:
        findings.append(
            Finding("caution", "The only loss is the one that the model was trained against: add another attack.")
        )
    elif len(losses) < 2:
        findings.append(
            Finding("caution", f"The only loss is {', '.join(losses)}: each misses something, so add another (CosPGD).")
        )
    good = f"{len(losses)} losses, not only the one that the model was trained against."
    finding = worst_finding(findings, good)
    evidence = {"losses": sorted(losses), "trained_with": sorted(trained) if trained else _text(trained_with)}
    return flag_of(8, "losses", finding, evidence)


def _text(trained_with: AttackSettings | str | None) -> str | None:
    """Return the description of the training attack if its loss is not known."""
    return trained_with.attack if isinstance(trained_with, AttackSettings) else trained_with


def judge_sample(card: Card) -> Flag:
    """9: the full split, or published images with an interval."""
    data = card.data
    width = _half_width(card)
    evidence = {
        "images": data.images,
        "split_images": data.split_images,
        "ids": None if data.ids is None else len(data.ids),
        "miou_half_width": width,
    }
    part = f"{data.images} of the split's {data.split_images} images"
    if data.images == data.split_images:
        finding = Finding("ok", "The full split was evaluated.")
    elif width is None and card.clean.no_confidence is not None:
        line = f"Only {part}, and no interval ({card.clean.no_confidence}): evaluate the full split."
        finding = Finding("caution", line)
    elif data.ids is None or width is None:
        finding = Finding("caution", f"Only {part}, unnamed or without an interval: evaluate the full split.")
    elif width <= NARROW and data.images >= FEW:
        finding = Finding("ok", f"{part}, named in the card; miou is known to ± {points(width)}.")
    else:
        finding = Finding(
            "caution", f"Only {part}: miou is known to ± {points(width)}; evaluate the full split before comparing."
        )
    return flag_of(9, "sample", finding, evidence)


def _half_width(card: Card) -> float | None:
    """Return half the width of the widest 95 % interval of a miou in the card."""
    rows = [card.clean, *card.ran.values()]
    if card.worst_case is not None and card.worst_case.per_image is not None:
        rows.append(card.worst_case.per_image)
    known = [(ends[1] - ends[0]) / 2 for row in rows if (ends := row.interval("miou")) is not None]
    return max(known, default=None)
