"""Copies of an attack with another number of steps, another ε or another step size."""

from __future__ import annotations

import copy
from fractions import Fraction

from robustseg.attacks import (
    FGSM,
    Attack,
    IterativeAttack,
    SegFGSM,
    SignStep,
    StepRule,
    ThreatModel,
    TranslationInvariantStep,
)
from robustseg.studies.errors import StudyError


def with_steps(name: str, attack: Attack, steps: int) -> IterativeAttack:
    """Copy ``attack`` with another number of steps.

    Args:
        name: Name of the attack, for the message.
        attack: The attack; it is left unchanged.
        steps: Number of steps T ≥ 1.

    Raises:
        StudyError: The attack does not take a number of steps.
    """
    iterative = _iterative(name, attack)
    if isinstance(attack, (FGSM, SegFGSM)):
        raise StudyError(f"attacks.{name}: {type(attack).__name__} has one step by definition: use BIM or SegPGD.")
    return iterative.with_loop(steps=steps)


def with_eps(name: str, attack: Attack, eps: Fraction, relative: bool) -> IterativeAttack:
    """Copy ``attack`` with another ε.

    Args:
        name: Name of the attack, for the message.
        attack: The attack; it is left unchanged.
        eps: Radius ε > 0 in units of [0, 1] images.
        relative: Keep the ratio of step size and ε; otherwise keep the step size. A single step of size ε, and the
            adaptive step of APGD, always follow ε.

    Raises:
        StudyError: The attack takes no steps along a gradient, or its own ε is 0.
    """
    iterative = _iterative(name, attack)
    if iterative.threat.eps == 0:
        raise StudyError(f"attacks.{name}: eps = 0 says nothing about its step size: give it a positive eps.")
    follows = relative or isinstance(attack, (FGSM, SegFGSM))
    threat = ThreatModel(str(eps), iterative.threat.norm, iterative.threat.bounds)
    rule = _scaled(iterative.step_rule, eps / iterative.threat.eps) if follows else iterative.step_rule
    return iterative.with_loop(threat=threat, step_rule=rule)


def _iterative(name: str, attack: Attack) -> IterativeAttack:
    if not isinstance(attack, IterativeAttack):
        raise StudyError(
            f"attacks.{name}: {type(attack).__name__} cannot be varied: use an attack that takes steps along a "
            "gradient, such as PGD, SegPGD, CosPGD, APGD or DS."
        )
    return attack


def _scaled(rule: StepRule, factor: Fraction) -> StepRule:
    """Copy a step rule with ``factor`` times the step size; one without a step size is copied unchanged."""
    scaled = copy.copy(rule)
    if isinstance(scaled, TranslationInvariantStep):
        scaled.inner = _scaled(scaled.inner, factor)
    elif isinstance(scaled, SignStep):
        scaled.step_size *= factor
    return scaled
