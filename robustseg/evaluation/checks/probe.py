"""Small experiments with a model on a few images, as evidence for or against the figures of attacks on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from robustseg.attacks import NOISE_VERSION, Attack, ThreatModel, attack_mode
from robustseg.attacks.entry import checked_batch
from robustseg.attacks.generators import global_generators
from robustseg.attacks.guard import Model
from robustseg.attacks.losses.base import IGNORED
from robustseg.attacks.threat import Norm
from robustseg.evaluation.checks.answers import probe_answers, probe_inputs
from robustseg.evaluation.checks.convergence import gradients_of, in_threat, probe_convergence
from robustseg.evaluation.checks.gradients import probe_gradients
from robustseg.evaluation.checks.strength import WhiteBox, probe_eps_curve, probe_one_step, probe_order
from robustseg.evaluation.checks.subject import Evidence, Subject, guarded, number
from robustseg.numerics.precision import full_precision
from robustseg.types import IGNORE_INDEX


def probe_model(
    model: Model,
    ids: Sequence[str],
    images: Tensor,
    targets: Tensor,
    *,
    eps: float | str,
    norm: Norm = "linf",
    num_classes: int,
    ignore_index: int | None = IGNORE_INDEX,
    seed: int = 0,
    attacks: Mapping[str, Attack] | None = None,
    reference_miou: float | None = None,
    suite: Mapping[str, Tensor] | None = None,
    batch_size: int | None = None,
    on_forward: Callable[[int], None] | None = None,
    num_scored: int | None = None,
    count_void: bool = False,
) -> dict[str, Any]:
    """Gather the evidence for :func:`~robustseg.evaluation.checks.trust_flags`, which judges it.

    A defect of the model is not an error here: its exceptions, NaN or a missing gradient are evidence. The result is a
    function of the arguments. It holds no times, and all randomness comes from ``seed``, also the model's if it draws
    from torch's generators. The model is left unchanged. About 8 images, spread over the split, are enough; each costs
    at most 304 gradients and 600 forwards.

    Args:
        model: A module or function from B×3×H×W images in [0, 1] to B×C×H×W logits.
        ids: N sample ids.
        images: N×3×H×W in [0, 1]; those without a valid pixel are left out.
        targets: N×H×W class ids, or the ignore index.
        eps: Radius of the evaluation's threat model, in units of [0, 1] images.
        norm: Norm of the evaluation's threat model.
        num_classes: Number of classes C.
        ignore_index: Label of pixels that do not count; None counts all.
        seed: Seed of the evaluation.
        attacks: The suite by name; its strongest attack of this threat model is run with more steps.
        reference_miou: Clean mIoU in the checkpoint's own record on the evaluated split, if there is one.
        suite: N×3×C class counts under attacks of the suite, if known: then more steps and black-box attacks are
            compared with the worst case over the suite.
        batch_size: Number of images in one forward; all by default.
        on_forward: Called after each forward, with its number of images.
        num_scored: Number of classes that ``suite`` counts, the first ones; all by default.
        count_void: Count ignored pixels as the last class, as ``suite`` does.

    Returns:
        JSON-serialisable evidence, for ``card["checks"]``.

    Raises:
        AttackError: ``images`` or ``targets`` do not have the shape, type or range that attacks need.
        ValueError: ``eps`` is not a positive radius, a target is not a class, no image has a valid pixel, or ``ids`` or
            ``suite`` do not fit the images.
    """
    threat = ThreatModel(eps, norm)
    images, targets = _checked(ids, images, targets, threat, num_classes, ignore_index, suite or {}, num_scored)
    rows = (targets != IGNORED).flatten(1).any(1).nonzero()[:, 0].tolist()
    known = {name: counts[rows].cpu() for name, counts in (suite or {}).items()}
    with full_precision(), attack_mode(model) as attacked:
        # Within attack_mode, which restores torch's generators, so that a random model gives the same evidence again.
        for generator in global_generators():
            generator.manual_seed(seed)
        subject = Subject(
            attacked,
            [ids[row] for row in rows],
            images[rows],
            targets[rows],
            threat,
            num_classes,
            seed,
            batch_size or len(rows),
            on_forward,
            num_scored,
            count_void,
        )
        evidence: Evidence = {
            "ids": subject.ids,
            "eps": str(threat.eps),
            "norm": norm,
            "noise": NOISE_VERSION,
            "reference_miou": None if reference_miou is None else number(reference_miou),
            **_experiments(subject, dict(attacks or {}), known),
        }
    count = len(rows)
    return {**evidence, "cost": {"forwards": subject.forwards / count, "backwards": subject.backwards / count}}


def _experiments(subject: Subject, attacks: Mapping[str, Attack], known: Mapping[str, Tensor]) -> Evidence:
    evidence = {
        "answers": guarded(lambda: probe_answers(subject)),
        "inputs": guarded(lambda: probe_inputs(subject)),
        "gradients": guarded(lambda: probe_gradients(subject)),
    }
    # The suite's gradient attacks on these images are white-box figures as well.
    followed = {
        name: counts
        for name, counts in known.items()
        if name in attacks and in_threat(attacks[name], subject) and gradients_of(attacks[name])
    }
    white: list[WhiteBox] = []

    def white_box() -> Evidence:
        white.append(WhiteBox(subject, followed))
        return white[0].evidence(subject)

    evidence["white_box"] = guarded(white_box)
    evidence["eps_curve"] = guarded(lambda: probe_eps_curve(subject))
    evidence["convergence"] = guarded(lambda: probe_convergence(subject, attacks, known))
    missing = {"error": evidence["white_box"].get("error")}
    evidence["order"] = guarded(lambda: probe_order(subject, white[0])) if white else missing
    evidence["one_step"] = guarded(lambda: probe_one_step(subject, white[0])) if white else missing
    return evidence


def _checked(
    ids: Sequence[str],
    images: Tensor,
    targets: Tensor,
    threat: ThreatModel,
    num_classes: int,
    ignore_index: int | None,
    suite: Mapping[str, Tensor],
    num_scored: int | None,
) -> tuple[Tensor, Tensor]:
    """Check the caller's arguments, and return copies of the tensors, with ignored pixels as IGNORED.

    Raises:
        AttackError: ``images`` or ``targets`` do not have the shape, type or range that attacks need.
        ValueError: Another argument is out of its range.
    """
    if not threat.eps:
        raise ValueError("eps = 0: the checks look at what an attack can do, give the eps of the evaluation.")
    images, targets = checked_batch(images, targets, ignore_index)
    if len(ids) != len(images):
        raise ValueError(f"ids = {len(ids)} for {len(images)} images: give one per image.")
    if int(targets.max()) >= num_classes:
        raise ValueError(f"num_classes = {num_classes}, but targets hold class {int(targets.max())}.")
    if not bool((targets != IGNORED).any()):
        raise ValueError("targets hold no valid pixel: choose other probe images.")
    for name, counts in suite.items():
        expected = (len(images), 3, num_scored or num_classes)
        if counts.shape != expected:
            raise ValueError(
                f"suite[{name!r}] has the shape {tuple(counts.shape)}, not {expected}: give the class counts of the "
                "probe images in their order."
            )
    return images, targets
