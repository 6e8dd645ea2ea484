"""Result cards as an evaluation writes them, with figures that fit together, for tests of what shows them."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from robustseg.attacks import Attack
from robustseg.evaluation.card import Card
from robustseg.evaluation.card_file import parse_card
from robustseg.evaluation.report import Leaderboard, build_leaderboard, report_html, report_markdown

CLASSES = [
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist"
]  # fmt: skip
STRONG = {
    "fgsm": ("FGSM", {"class": "CrossEntropy"}, 1),
    "pgd20": ("PGD", {"class": "CrossEntropy"}, 20),
    "segpgd20": ("SegPGD", {"class": "SegPGDLoss", "schedule": "linear", "constant": 0.25}, 20),
    "cospgd20": ("CosPGD", {"class": "CosPGDLoss"}, 20),
    "pgd100": ("PGD", {"class": "CrossEntropy"}, 100),
}
LEFT = {"fgsm": 0.82, "pgd20": 0.55, "segpgd20": 0.5, "cospgd20": 0.47, "pgd100": 0.51}
"""Share of the clean accuracy that an attack leaves."""
CHECKS = [
    ("answers", "The model answers with logits, the same ones each time."),
    ("record and input", "Clean miou is that of the checkpoint's record, and the images are in the range it expects."),
    ("gradients", "Gradients reach every pixel of the image."),
    ("budget", "No perturbation is larger than eps; rounded to 8 bit the largest is 8.00/255."),
    ("eps curve", "Accuracy falls with eps and ends at chance."),
    ("convergence", "Twice the steps lower pixel accuracy by 0.8 points more: use more steps."),
    ("order", "Noise and black-box attacks find less than the white-box attacks."),
    ("losses", "The suite has three losses, and not only the one that the model was trained with."),
    ("sample", "All images of the split were scored."),
    ("one step", "One step does a fair part of what many steps do."),
]


def settings(attack: str, loss: dict[str, Any], steps: int, eps: str = "8/255") -> dict[str, Any]:
    step = eps if steps == 1 else "1/100"
    return {
        "attack": attack, "eps": eps, "norm": "linf", "loss": loss,
        "step_rule": {"class": "SignStep", "step_size": step}, "steps": steps, "random_start": steps > 1,
        "restarts": 1, "targeted": False, "keep": "last", "transform": None, "seed": 0,
    }  # fmt: skip


def scores(pixel_acc: float, classes: list[str], images: int, seed: int) -> dict[str, Any]:
    draw = random.Random(seed)
    iou: dict[str, float | None] = {name: min(1.0, pixel_acc * draw.uniform(0.2, 1.05)) for name in classes}
    if len(classes) > 2:
        iou[classes[-1]] = None
    known = [value for value in iou.values() if value is not None]
    figures = {
        "pixel_acc": pixel_acc,
        "mean_acc": 0.8 * pixel_acc,
        "miou": sum(known) / len(known),
        "image_miou": 0.95 * sum(known) / len(known),
    }
    confidence = {key: [max(0.0, value - 0.021), min(1.0, value + 0.019)] for key, value in figures.items()}
    return {**figures, "class_iou": iou, "images": images, "confidence": confidence}


def make_card(
    clean: float = 0.9,
    strength: float = 1.0,
    sha256: str = "794cf728127fa123a903ac7a99025c3c1e67f70087caa1203c202447c9fd6d54",
    verdict: str = "caution",
    classes: list[str] | None = None,
    images: int = 101,
) -> dict[str, Any]:
    """A card of the strong suite.

    Args:
        clean: Pixel accuracy without attack.
        strength: Below 1, every attack leaves less.
        sha256: Of the checkpoint.
        verdict: Of the card; check 3 fails where it is "unreliable".
        classes: Names of the classes.
        images: Scored images, all of the split.
    """
    classes = CLASSES if classes is None else classes
    card: dict[str, Any] = {
        "format": 2,
        "model": {
            "network": "PSPNet",
            "settings": {"backbone": "resnet10t", "num_classes": len(classes), "pretrained": False},
            "checkpoint": "last.ckpt", "sha256": sha256, "weights": "raw",
            "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "window": None,
            "trained_with": settings("SegPGD", STRONG["segpgd20"][1], 3),
        },
        "data": {
            "name": "CamVid", "split": "val", "images": images, "split_images": images, "sha256": "c0ffee" * 10,
            "class_names": classes, "ignore_index": 255, "image_size": [180, 240], "ids": None,
        },
        "protocol": {
            "suite": "strong", "norm": "linf", "eps": "8/255", "precision": "float32", "seed": 0, "batch_sizes": [8],
        },
        "clean": scores(clean, classes, images, 1),
        "attacks": {},
        "verdict": verdict,
        "versions": {"robustseg": "0.4.0", "python": "3.12.3", "torch": "2.8.0"},
        "commit": "4268a6e",
    }  # fmt: skip
    for place, (name, facts) in enumerate(STRONG.items()):
        row = scores(clean * LEFT[name] * strength, classes, images, 1 + place)
        gap = {key: card["clean"][key] - row[key] for key in ("pixel_acc", "miou")}
        cost = {"forwards": float(facts[2]), "backwards": float(facts[2])}
        sizes = {"linf_max": 8 / 255, "l2_max": 5.3121, "linf_max_8bit": 8 / 255, "l2_max_8bit": 5.2987}
        fooled = {"fooled_share": 0.0, "fooled_linf": None, "fooled_l2": None, "target_success": None}
        rest = {"gap": gap, **cost, **sizes, **fooled, "without_valid_pixels": 0, "error": None}
        card["attacks"][name] = {"settings": settings(*facts), **row, **rest}
    worst = scores(clean * 0.44 * strength, classes, images, 3)
    chosen = {"segpgd20": images // 4, "cospgd20": images - images // 4 - images // 10, "pgd100": images // 10}
    greedy = {"miou": 0.9 * worst["miou"], "pixel_acc": clean * 0.46 * strength, "chosen": {"cospgd20": images}}
    card["worst_case"] = {"per_image": {**worst, "chosen": chosen}, "greedy": greedy}
    card["checks"] = checks(clean, strength)
    card["flags"] = flags(verdict)
    return card


def checks(clean: float, strength: float) -> dict[str, Any]:
    radii = {"0": "0", "1/4": "2/255", "1/2": "4/255", "1": "8/255", "2": "16/255", "4": "32/255", "everything": "1"}
    left = [1.0, 0.8, 0.66, 0.45 * strength, 0.2 * strength, 0.03, 0.0]
    curve = dict(zip(radii, (clean * share for share in left), strict=True))
    ids = [f"0016E5_0{7959 + 40 * number}" for number in range(8)]
    return {"ids": ids, "eps_curve": {"eps": radii, "pixel_acc": curve, "chance": 0.31}}


def flags(verdict: str) -> list[dict[str, Any]]:
    found = []
    for number, (name, line) in enumerate(CHECKS, start=1):
        own = "caution" if number == 6 and verdict != "ok" else "ok"
        if number == 3 and verdict == "unreliable":
            own, line = (
                "unreliable",
                "98 % of the gradient's entries are zero: the attacks were blind, rescale the logits.",
            )
        evidence = {"pgd20": 0.4551234567, "twice": 0.4471, "images": [0.41, 0.52, None]} if number % 2 == 0 else {}
        found.append({"number": number, "name": name, "verdict": own, "line": line, "evidence": evidence})
    return found


def typed(card: dict[str, Any]) -> Card:
    """As it is read from a file."""
    return parse_card(json.loads(json.dumps(card), parse_constant=lambda _: None))


def few_scores(pixel_acc: float, miou: float, width: float = 0.04) -> dict[str, Any]:
    """The figures of a `small_card` that flags look at."""
    interval = [max(miou - width / 2, 0.0), min(miou + width / 2, 1.0)]
    return {"pixel_acc": pixel_acc, "miou": miou, "confidence": {"miou": interval}}


def attack_row(attack: Attack, pixel_acc: float = 0.3, miou: float = 0.1, **extra: Any) -> dict[str, Any]:
    """An attack of a `small_card` that stays within 8/255."""
    size = {"linf_max": 8 / 255, "l2_max": 1.0, "linf_max_8bit": 8 / 255, "l2_max_8bit": 1.0}
    described = {**attack.describe(), **extra.pop("settings", {})}
    found = few_scores(pixel_acc, miou)
    return {"settings": described, "error": None, **found, "backwards": 20, **size, **extra}


def small_card(**changes: Any) -> Card:
    """A card of one class in which rows name the figures that matter; the others are filled in."""
    card = make_card(classes=["thing"])
    for key, value in changes.items():
        card[key] = {**card[key], **value} if key in ("model", "data") else value
    for row in (card["clean"], *card["attacks"].values()):
        if row.get("error") is None:
            filled = {"pixel_acc": None, "mean_acc": None, "miou": None, "image_miou": None}
            row |= {**filled, **row, "class_iou": {"thing": None}}
    return typed(card)


def page_of(card: dict[str, Any], *shown: Any, **more: Any) -> str:
    return report_html(typed(card), *shown, **more)


def markdown_of(card: dict[str, Any]) -> str:
    return report_markdown(typed(card))


def board_of(cards: dict[str, dict[str, Any]], **settings: Any) -> Leaderboard:
    return build_leaderboard({name: typed(card) for name, card in cards.items()}, **settings)


def changed(card: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of ``card`` with another value at a dotted key."""
    copied = copy.deepcopy(card)
    *parents, last = key.split(".")
    place: Any = copied
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    place[int(last) if isinstance(place, list) else last] = value
    return copied
