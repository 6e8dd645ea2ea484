"""The experiment on convergence: twice the steps and another start of the suite's own strongest attack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from robustseg.attacks import Attack, CosPGD, IterativeAttack, WorstOf
from robustseg.evaluation.checks.strength import REFERENCE_STEPS, probe_attack
from robustseg.evaluation.checks.subject import Evidence, Subject, number
from robustseg.metrics import miou_from_counts, pixel_acc_from_counts, worst_case_images

GRADIENT_BUDGET = 120
"""Most gradients per image that the comparison may cost; an attack of 40 steps and its double cost 120."""

_LOOP = ("perturb", "_restart", "_run", "_step", "_objective", "_watch")
"""Methods that an attack must not override, so that :func:`with_steps` can rebuild it from its public settings."""


def gradients_of(attack: Attack) -> int:
    """Count the gradients per image of an attack that :func:`with_steps` can rebuild; return 0 for others."""
    if isinstance(attack, WorstOf):
        costs = [gradients_of(member) for member in attack.attacks]
        return sum(costs) if all(costs) else 0
    if isinstance(attack, IterativeAttack) and all(
        getattr(type(attack), name) is getattr(IterativeAttack, name) for name in _LOOP
    ):
        return attack.steps * attack.restarts
    return 0


def with_steps(attack: Attack, factor: int, seed: int) -> Attack:
    """Rebuild an attack with ``factor`` times the steps and another seed.

    Args:
        attack: An attack with positive :func:`gradients_of`; it is left unchanged.
        factor: Factor of the number of steps, at least 1.
        seed: Seed of the start noise.
    """
    if isinstance(attack, WorstOf):
        # A member's noise within WorstOf depends on its own seed.
        return WorstOf([with_steps(member, factor, seed + member.seed) for member in attack.attacks], seed)
    assert isinstance(attack, IterativeAttack)
    # Also of FGSM, whose constructor has no steps.
    return attack.with_loop(steps=factor * attack.steps, seed=seed)


def probe_convergence(subject: Subject, attacks: Mapping[str, Attack], suite: Mapping[str, Tensor]) -> Evidence:
    """Compute the worst case over the suite on the probe images, without and with more steps of its strongest attack.

    Args:
        subject: The model and the images.
        attacks: The attacks of the suite, by name.
        suite: N×3×C class counts on the probe images, by attack, of those attacks that the caller has counts of.

    Returns:
        ``before`` is the worst case over the attacks in ``compared_with``: those of ``suite`` and as many others as the
        budget allows, the long ones first. ``after`` adds the strongest of them, ``attack``, with twice the steps, and
        another start if the budget allows. ``attack`` is None if all are too long; then an attack of the probe is used.
        ``longer`` lists attacks of the suite that are not in the comparison.
    """
    ours = {name: attack for name, attack in attacks.items() if in_threat(attack, subject)}
    within = {name: attack for name, attack in ours.items() if gradients_of(attack) > 1}
    runs = {name: counts for name, counts in suite.items() if name in ours}
    # Given counts are free; the doubled attack alone may take the whole budget.
    doublable = {name: gradients_of(attack) for name, attack in within.items()}
    doublable = {name: cost for name, cost in doublable.items() if 2 * cost <= GRADIENT_BUDGET}
    spent = 0
    for name, cost in sorted(doublable.items(), key=lambda item: -item[1]):
        longest = max(doublable[other] for other in (name, *runs) if other in doublable)
        if name not in runs and spent + cost + 2 * longest <= GRADIENT_BUDGET:
            runs[name] = subject.counts(subject.attacked(within[name]))
            spent += cost
    affordable = [name for name in runs if spent + 2 * doublable.get(name, GRADIENT_BUDGET) <= GRADIENT_BUDGET]
    chosen = min(affordable, key=lambda name: float(pixel_acc_from_counts(runs[name]).mean()), default=None)
    attack = within[chosen] if chosen else probe_attack(CosPGD, subject.threat, REFERENCE_STEPS)
    cost, rescaled = gradients_of(attack), chosen is None
    if not runs:
        runs["probe"] = subject.counts(subject.attacked(attack, rescaled))
        spent += cost
    before = _worst(runs.values())
    more = [subject.counts(subject.attacked(with_steps(attack, 2, attack.seed + 1), rescaled))]
    restart = _starts_anywhere(attack) and spent + 3 * cost <= GRADIENT_BUDGET
    if restart:
        more.append(subject.counts(subject.attacked(with_steps(attack, 1, attack.seed + 2), rescaled)))
    return {
        "attack": chosen,
        "gradients": cost,
        "restart": restart,
        "compared_with": list(runs),
        "longer": sorted(name for name in within if name not in runs),
        "before": before,
        "after": _worst([*runs.values(), *more]),
    }


def in_threat(attack: Attack, subject: Subject) -> bool:
    """Return True for an untargeted attack of the evaluation's threat model."""
    threat = attack.threat
    same = threat is not None and (threat.eps, threat.norm) == (subject.threat.eps, subject.threat.norm)
    return same and not attack.targeted


def _starts_anywhere(attack: Attack) -> bool:
    if isinstance(attack, WorstOf):
        return any(_starts_anywhere(member) for member in attack.attacks)
    return isinstance(attack, IterativeAttack) and (attack.random_start or attack.transform is not None)


def _worst(runs: Iterable[Tensor]) -> Evidence:
    total = worst_case_images(torch.stack(list(runs))).counts
    return {"pixel_acc": number(pixel_acc_from_counts(total)), "miou": number(miou_from_counts(total))}
