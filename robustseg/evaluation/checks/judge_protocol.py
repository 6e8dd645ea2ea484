"""Flags about the protocol: the budget, the choice of losses and the sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from robustseg.evaluation.checks.flag import Finding, Flag, points, worst_finding
from robustseg.evaluation.checks.settings import losses_of, ran, threat_of, untargeted, white_box
from robustseg.types import parse_fraction

LINF_ROUNDING = 2.0**-23
"""Excess that float32 may explain: images of [0, 1] are multiples of at most 2⁻²⁴, and a sum is rounded once more."""
L2_ROUNDING = 1e-6
"""The same relative to ε, and for rms; attacks of this package mend even that."""
HALF_LEVEL = 0.5 / 255
"""What rounding to 8 bit moves a pixel by at most."""
FEW = 30
"""Images below which an interval from resampling says little: with a single one it has no width at all."""
NARROW = 0.01
"""Half width of an interval up to which a published part of a split stands for the whole: the tables of the papers
are compared in whole points."""


def judge_budget(card: Mapping[str, Any]) -> Flag:
    """4: no perturbation is larger than allowed."""
    findings: list[Finding] = []
    evidence: dict[str, dict[str, Any]] = {}
    rounded = []
    for name, row in ran(card).items():
        threat = threat_of(row)
        if threat is None:
            continue
        eps, norm = float(parse_fraction(threat[0])), threat[1]
        size, stored = row.get(f"{norm}_max"), row.get(f"{norm}_max_8bit")
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
    return Flag(4, "budget", finding.verdict, finding.line, evidence)


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


def judge_losses(card: Mapping[str, Any]) -> Flag:
    """8: more than one loss, and not only the one that the model was trained against."""
    losses: set[str] = set()
    for row in ran(card).values():
        if threat_of(row) is not None and untargeted(row) and white_box(row):
            losses |= losses_of(row)
    trained_with = card["model"].get("trained_with", "unknown")
    trained = losses_of({"settings": trained_with}) if isinstance(trained_with, Mapping) else set()
    # FGSM's loss too: the training attack may be of one step.
    if isinstance(trained_with, Mapping) and "loss" in trained_with:
        trained |= {str(trained_with["loss"]).split("(")[0]}
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
    evidence = {"losses": sorted(losses), "trained_with": sorted(trained) if trained else trained_with}
    return Flag(8, "losses", finding.verdict, finding.line, evidence)


def judge_sample(card: Mapping[str, Any]) -> Flag:
    """9: the full split, or published images with an interval."""
    data = card["data"]
    width = _half_width(card)
    evidence = {
        "images": data["images"],
        "split_images": data["split_images"],
        "ids": None if data.get("ids") is None else len(data["ids"]),
        "miou_half_width": width,
    }
    part = f"{data['images']} of the split's {data['split_images']} images"
    if data["images"] == data["split_images"]:
        finding = Finding("ok", "The full split was evaluated.")
    elif data.get("ids") is None or width is None:
        finding = Finding("caution", f"Only {part}, unnamed or without an interval: evaluate the full split.")
    elif width <= NARROW and data["images"] >= FEW:
        finding = Finding("ok", f"{part}, named in the card; miou is known to ± {points(width)}.")
    else:
        finding = Finding(
            "caution", f"Only {part}: miou is known to ± {points(width)}; evaluate the full split before comparing."
        )
    return Flag(9, "sample", finding.verdict, finding.line, evidence)


def _half_width(card: Mapping[str, Any]) -> float | None:
    """Of the widest 95 % interval of a miou in the card."""
    rows = [card["clean"], *ran(card).values()]
    worst = (card.get("worst_case") or {}).get("per_image")
    intervals = [row.get("confidence", {}).get("miou") for row in [*rows, *([worst] if worst else [])]]
    known = [(high - low) / 2 for low, high in filter(None, intervals) if low is not None and high is not None]
    return max(known, default=None)
