"""Flags on the attacks' strength: over eps, with more effort, against noise, and in a single step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from robustseg.evaluation.card import Card, Flag, SearchFacts
from robustseg.evaluation.checks.flag import (
    NOT_PROBED,
    Finding,
    flag_of,
    percent,
    points,
    probe_evidence,
    worst_finding,
)
from robustseg.evaluation.checks.settings import Row, threat_of, untargeted, white_box

RISE = 0.05
"""Most pixel accuracy that a larger ε may regain: short attacks with large steps overshoot slightly."""
ABOVE_CHANCE = 0.02
"""Most pixel accuracy above chance that may remain if every image is allowed: ten steps do not find the worst."""

CONVERGED = 0.005
"""Most change of the worst case by more effort for an attack to count as converged."""
FAR_OFF = 0.05
"""Change from which on the figure describes the attack more than the model."""

BEATEN = 0.002
"""Most advantage of an attack without the model's gradient: a few pixels of a few images."""

ONE_STEP_MATTERS = 0.1
"""Least pixel accuracy that many steps must cost for a weak single step to be evidence."""
ONE_STEP_SHARE = 0.1
"""Least share of many steps' damage that a single step does.

It is about a third for standard models, more than half for models trained against many steps, and nothing for
overfitted ones.
"""
DISTORTED_SHARE = 0.5
"""Least share of a shorter step's damage that the whole step does."""
DISTORTED_POINTS = 0.05
"""Least damage of the shorter step for this comparison."""


def judge_eps_curve(card: Card) -> Flag:
    """5: accuracy falls with ε, down to chance."""
    found = probe_evidence(card, "eps_curve")
    if found is None:
        finding = NOT_PROBED
    elif "error" in found:
        finding = Finding("not checked", f"No attack could be run over eps: {found['error']}")
    else:
        good = "Accuracy falls with eps, and to chance where every image is allowed."
        finding = worst_finding(list(_curve_findings(found)), good)
    return flag_of(5, "eps curve", finding, found)


def _curve_findings(found: Mapping[str, Any]) -> Iterator[Finding]:
    curve = list(found["pixel_acc"].items())
    advice = "gradients are masked; attack without them (Square, transfer) or replace the part that masks them"
    for (_, before), (name, after) in pairwise(curve):
        if after - before > RISE:
            eps = found["eps"][name]
            yield Finding(
                "unreliable", f"Accuracy rises by {points(after - before)} when eps grows to {eps}: {advice}."
            )
    left = found["pixel_acc"]["everything"]
    if left > found["chance"] + ABOVE_CHANCE:
        yield Finding(
            "unreliable",
            f"With every image allowed, attacks leave {percent(left)} of the pixels, and chance is "
            f"{percent(found['chance'])}: {advice}.",
        )


def judge_convergence(card: Card) -> Flag:
    """6: more steps and restarts do not change the figure."""
    found = probe_evidence(card, "convergence")
    doubled = _doubled_in_card(card)
    findings: list[Finding] = []
    if found is not None and "error" not in found:
        findings += list(_effort_findings(found))
    elif found is not None:
        findings.append(Finding("not checked", f"No attack could be run with more steps: {found['error']}"))
    elif doubled is None:
        findings.append(NOT_PROBED)
    if doubled is not None and doubled["change"] >= CONVERGED:
        findings.append(
            Finding(
                "caution",
                f"From {doubled['fewer']} to {doubled['more']}, with at least twice the steps, the figure still falls "
                f"by {points(doubled['change'])}: take more steps.",
            )
        )
    findings += list(_search_findings(card.protocol.search))
    finding = worst_finding(findings, "Twice the steps and another start change the figure by less than 0.5 points.")
    search = card.protocol.search
    searched = {} if search is None else {"search": search.as_dict()}
    return flag_of(6, "convergence", finding, {"probe": found, "suite": doubled, **searched})


def _search_findings(search: SearchFacts | None) -> Iterator[Finding]:
    """Judge what a search in low precision leaves more than one in float32."""
    if search is None:
        return
    lost, limit = search.most_lost(), search.limit or 0.0
    if lost is None:
        yield Finding(
            "not checked",
            f"Attacks searched in {search.precision}, and nothing says what that costs: set robustness.search.images.",
        )
    elif lost > limit / 100:
        worst = max(search.lost, key=lambda name: search.lost[name].get("pixel_acc") or 0.0)
        yield Finding(
            "caution",
            f"{worst} searched in {search.precision} leaves {points(lost)} of pixel_acc more than in float32 on "
            f"{search.images} images, above the limit of {limit:g}: leave robustness.search out.",
        )


def _effort_findings(found: Mapping[str, Any]) -> Iterator[Finding]:
    change = effort_change(found)
    if change < CONVERGED:
        return
    whose = f"{found['attack']} with twice the steps" if found["attack"] else "A probe attack of twice the steps"
    # Where the suite has longer attacks, the shorter one that was doubled is not what the figure rests on.
    off = change >= FAR_OFF and found["attack"] is not None and not found["longer"]
    advice = "the figure is far too high" if off else "the figure is too high by as much or more"
    yield Finding(
        "unreliable" if off else "caution",
        f"{whose} lowers the worst case on the probe images by {points(change)}, {advice}: take more steps.",
    )


def effort_change(found: Mapping[str, Any]) -> float:
    """Compute the larger of the decreases of mIoU and pixel accuracy by more effort."""
    pairs = [(found["before"][key], found["after"][key]) for key in ("miou", "pixel_acc")]
    return float(max(before - after for before, after in pairs))


def _doubled_in_card(card: Card) -> dict[str, Any] | None:
    """Return the longest attack of the card and the same with half its steps or fewer, if there is one."""
    rows = {name: row for name, row in card.ran.items() if row.settings.steps and _bounded_white(row)}
    best: dict[str, Any] | None = None
    for more, row in rows.items():
        for fewer, other in rows.items():
            steps, other_steps = row.settings.steps or 0, other.settings.steps or 0
            if _apart_from_steps(row) == _apart_from_steps(other) and 1 < other_steps <= steps / 2:
                longest = (steps, other_steps)
                if best is None or longest > (best["steps"], best["half"]):
                    change = max(other.known(key) - row.known(key) for key in ("miou", "pixel_acc"))
                    best = {"more": more, "fewer": fewer, "steps": steps, "half": other_steps, "change": change}
    return best


def _apart_from_steps(row: Row) -> dict[str, Any]:
    return {key: value for key, value in row.settings.as_dict().items() if key not in ("steps", "stages")}


def _bounded_white(row: Row) -> bool:
    return threat_of(row) is not None and untargeted(row) and white_box(row) and row["miou"] is not None


def judge_order(card: Card) -> Flag:
    """7: nothing that does not see the gradient is stronger than what follows it."""
    found = probe_evidence(card, "order")
    findings: list[Finding] = []
    suite = dict(_card_order(card))
    if found is not None and "error" not in found:
        for name, accuracy in found["black_box"].items():
            findings += list(_beaten(name.replace("_", " "), accuracy, found["white_box"], "on the probe images"))
    elif found is not None:
        findings.append(Finding("not checked", f"The probe could not compare attacks: {found['error']}"))
    else:
        findings.append(NOT_PROBED)
    for name, row in suite.items():
        for figure in ("pixel_acc", "miou"):
            findings += list(_beaten(name, row[figure], row[f"white_box_{figure}"], f"in {figure}"))
    finding = worst_finding(findings, "Nothing that ignores the gradient is stronger than what follows it.")
    return flag_of(7, "order", finding, {"probe": found, "suite": suite})


def _beaten(name: str, accuracy: float, white: float, where: str) -> Iterator[Finding]:
    if white - accuracy > BEATEN:
        yield Finding(
            "unreliable",
            f"{name} needs no gradient and beats every white-box attack by {points(white - accuracy)} {where}: "
            "the gradient is masked, or the attacks are set up badly.",
        )


def _card_order(card: Card) -> Iterator[tuple[str, dict[str, Any]]]:
    """Attacks of the suite without the model's gradient, and the best white-box figures within the same budget."""
    rows = {
        name: row
        for name, row in card.ran.items()
        if threat_of(row) is not None and untargeted(row) and row["miou"] is not None
    }
    for name, row in rows.items():
        rivals = [other for other in rows.values() if white_box(other) and threat_of(other) == threat_of(row)]
        if not white_box(row) and rivals:
            yield (
                name,
                {
                    "pixel_acc": row["pixel_acc"],
                    "miou": row["miou"],
                    "white_box_pixel_acc": min(other.known("pixel_acc") for other in rivals),
                    "white_box_miou": min(other.known("miou") for other in rivals),
                },
            )


def judge_one_step(card: Card) -> Flag:
    """10: a single step is not harmless where many are not (catastrophic overfitting)."""
    found = probe_evidence(card, "one_step")
    suite = _card_one_step(card)
    findings: list[Finding] = []
    if found is not None and "error" not in found:
        findings += list(_one_step_findings(found["clean"], found["fgsm"]["1"], found["many_steps"]))
        findings += list(_distorted(found))
    elif found is not None:
        findings.append(Finding("not checked", f"A single step could not be compared: {found['error']}"))
    elif suite is None:
        findings.append(NOT_PROBED)
    if suite is not None:
        findings += list(_one_step_findings(suite["clean"], suite["one_step"], suite["many_steps"]))
    finding = worst_finding(findings, "A single step does its share of the damage of many.")
    return flag_of(10, "single step", finding, {"probe": found, "suite": suite})


def _one_step_findings(clean: float, one: float, many: float) -> Iterator[Finding]:
    damage = clean - many
    if damage > ONE_STEP_MATTERS and clean - one < ONE_STEP_SHARE * damage:
        yield Finding(
            "unreliable",
            f"One step leaves {percent(one)} of the pixels, many steps {percent(many)}: catastrophic overfitting to "
            "single steps, or masked gradients; report attacks of many steps only and train against them.",
        )


def _distorted(found: Mapping[str, Any]) -> Iterator[Finding]:
    """Find a distorted loss (Kim, Lee & Lee, AAAI 2021): a part of the step is harmful, but the whole step is not."""
    damage = {factor: found["clean"] - accuracy for factor, accuracy in found["fgsm"].items()}
    whole = damage.pop("1")
    factor = max(damage, key=lambda factor: damage[factor])
    if damage[factor] > DISTORTED_POINTS and whole < DISTORTED_SHARE * damage[factor]:
        yield Finding(
            "unreliable",
            f"A step of {factor} eps costs {points(damage[factor])} of pixel accuracy, one of eps {points(whole)}: the "
            "loss is distorted around the images (catastrophic overfitting); report attacks of many steps only.",
        )


def _card_one_step(card: Card) -> dict[str, float] | None:
    """Return the suite's strongest single step and its strongest attack of many steps within the same budget."""
    rows = [row for row in card.ran.values() if _bounded_white(row)]
    for row in rows:
        rivals = [other for other in rows if threat_of(other) == threat_of(row) and (other.settings.steps or 2) > 1]
        if row.settings.steps == 1 and rivals and card.clean["pixel_acc"] is not None:
            same = [other for other in rows if threat_of(other) == threat_of(row) and other.settings.steps == 1]
            return {
                "clean": card.clean.known("pixel_acc"),
                "one_step": min(other.known("pixel_acc") for other in same),
                "many_steps": min(other.known("pixel_acc") for other in rivals),
            }
    return None
