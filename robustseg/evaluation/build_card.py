"""Construction of result cards from measurements."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from robustseg.evaluation.attacking import CLEAN
from robustseg.evaluation.card import FORMAT, Card
from robustseg.evaluation.card_file import parse_card
from robustseg.evaluation.checks import overall, trust_flags
from robustseg.evaluation.figures import BY_KEY, IN_8BIT, keys_in, number
from robustseg.evaluation.measurements import Measurements
from robustseg.evaluation.record import FOOLED, summarise
from robustseg.metrics import (
    FEWEST_IMAGES,
    class_iou_from_counts,
    confidence_intervals,
    greedy_worst_case,
    has_spread,
    miou_from_counts,
    no_spread,
    pixel_acc_from_counts,
    scores_from_counts,
    too_few,
    worst_case_images,
)


def build_card(
    about: Mapping[str, Any],
    measured: Measurements,
    attacks: Mapping[str, Mapping[str, Any]],
    checks: Mapping[str, Any] | None,
) -> Card:
    """Make the result card of an evaluation; the same measurements give the same card, without times or folders.

    Args:
        about: The parts ``model``, ``data``, ``protocol``, ``versions`` and ``commit`` of the card.
        measured: Measurements of the clean images and of all attacks.
        attacks: Settings of the attacks, ``describe()``, by name.
        checks: Evidence of :func:`~robustseg.evaluation.checks.probe_model`, or None if the model was not probed.

    Raises:
        ReportError: A part is not valid in a card.
    """
    class_names = about["data"]["class_names"]
    clean = scores(measured.counts[CLEAN], class_names)
    rows: dict[str, Any] = {}
    for name, settings in attacks.items():
        if name in measured.refused:
            rows[name] = {"settings": dict(settings), "error": measured.refused[name]}
            continue
        robust = scores(measured.counts[name], class_names)
        summary = summarise(measured.figures[name], float(settings.get("success") or FOOLED))
        del summary["seconds"]  # differs from run to run
        rows[name] = {
            "settings": dict(settings),
            "error": None,
            **robust,
            **scores_in_8bit(measured.rounded.get(name)),
            "gap": {key: _gap(clean[key], robust[key]) for key in keys_in("gap")},
            **{key: int(v) if BY_KEY[key].unit == "images" else number(v) for key, v in summary.items()},
        }
    eps, norm = _shared_threat(attacks)
    bounded = [name for name in rows if name not in measured.refused and attacks[name].get("eps") is not None]
    card = {
        "format": FORMAT,
        **about,
        "protocol": {
            **about["protocol"],
            "norm": norm,
            "eps": eps,
            "batch_sizes": measured.batch_sizes,
        },
        "clean": clean,
        "attacks": rows,
        "worst_case": worst_cases(measured, bounded, class_names) if eps is not None and bounded else None,
        "checks": None if checks is None else dict(checks),
    }
    # The same form as read from the file: lists in place of tuples, and every key checked.
    unjudged = parse_card(json.loads(json.dumps({**card, "flags": [], "verdict": "caution"})), "the result card")
    flags = trust_flags(unjudged)
    return unjudged.model_copy(update={"flags": flags, "verdict": overall(flags)})


def scores(counts: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """Compute the scores of a data set from the counts of its images.

    Args:
        counts: N×3×C int64, see :func:`~robustseg.metrics.class_counts`.
        class_names: Names of the C classes.

    Returns:
        The scores, ``class_iou`` and confidence intervals as plain JSON.
    """
    total = counts.sum(0)
    return {
        **{key: number(value) for key, value in scores_from_counts(counts).items()},
        "class_iou": dict(zip(class_names, map(number, class_iou_from_counts(total)), strict=True)),
        "images": len(counts),
        **_intervals(counts),
    }


def scores_in_8bit(counts: Tensor | None) -> dict[str, float | None]:
    """Compute the scores of images that were rounded to 8 bit from their counts, N×3×C; none without counts."""
    if counts is None:
        return {}
    found = scores_from_counts(counts)
    return {rounded: number(found[key]) for key, rounded in IN_8BIT.items()}


def _intervals(counts: Tensor) -> dict[str, Any]:
    """Compute the confidence intervals by figure, or give the reason why there are none."""
    scored = int((counts[:, 1].sum(-1) > 0).sum())
    if scored < FEWEST_IMAGES:
        return {"confidence": {}, "no_confidence": too_few(scored)}
    known = {key: [*ends] for key, ends in confidence_intervals(counts).items() if has_spread(*ends)}
    # A figure that is the same for all images, such as 0 under a strong attack, has no spread to resample.
    return {"confidence": known} if known else {"confidence": {}, "no_confidence": no_spread(scored)}


def worst_cases(measured: Measurements, names: Sequence[str], class_names: Sequence[str]) -> dict[str, Any]:
    """Compute the worst of several attacks for each image, and the greedy worst case of the data set's mIoU.

    Args:
        measured: Measurements of the attacks.
        names: Names of the attacks.
        class_names: Names of the C classes.
    """
    counts = torch.stack([measured.counts[name] for name in names])
    each, greedy = worst_case_images(counts), greedy_worst_case(counts)
    order = torch.arange(counts.shape[1])
    # The 8-bit figures are those of the same choice: it is made by the images as they are.
    rounded = [measured.rounded[name] for name in names if name in measured.rounded]
    stored = torch.stack(rounded) if len(rounded) == len(names) else None
    per_image, of_greedy = (
        scores_in_8bit(None if stored is None else stored[found.attack, order]) for found in (each, greedy)
    )
    return {
        "per_image": {
            **scores(counts[each.attack, order], class_names),
            **per_image,
            "chosen": _chosen(each.attack, names),
        },
        "greedy": {
            "miou": number(miou_from_counts(greedy.counts)),
            "pixel_acc": number(pixel_acc_from_counts(greedy.counts)),
            **of_greedy,
            "chosen": _chosen(greedy.attack, names),
        },
    }


def _gap(clean: float | None, robust: float | None) -> float | None:
    return None if clean is None or robust is None else clean - robust


def _chosen(attack: Tensor, names: Sequence[str]) -> dict[str, int]:
    return {name: int((attack == index).sum()) for index, name in enumerate(names)}


def _shared_threat(attacks: Mapping[str, Mapping[str, Any]]) -> tuple[str | None, str | None]:
    """Return ε and norm of the attacks with a bound; None where they differ."""
    threats = {(s["eps"], s.get("norm")) for s in attacks.values() if s.get("eps") is not None}
    return next(iter(threats)) if len(threats) == 1 else (None, None)
