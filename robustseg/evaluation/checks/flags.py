"""The ten trust flags of a result card, each with its evidence."""

from __future__ import annotations

from collections.abc import Sequence

from robustseg.evaluation.card import Card, Flag, Verdict
from robustseg.evaluation.checks.flag import SEVERITY
from robustseg.evaluation.checks.judge_attacks import (
    judge_convergence,
    judge_eps_curve,
    judge_one_step,
    judge_order,
)
from robustseg.evaluation.checks.judge_model import judge_answers, judge_clean, judge_gradients
from robustseg.evaluation.checks.judge_protocol import judge_budget, judge_losses, judge_sample

__all__ = ["Flag", "Verdict", "overall", "trust_flags"]

_JUDGES = (
    judge_answers,
    judge_clean,
    judge_gradients,
    judge_budget,
    judge_eps_curve,
    judge_convergence,
    judge_order,
    judge_losses,
    judge_sample,
    judge_one_step,
)


def trust_flags(card: Card) -> list[Flag]:
    """All ten flags of a card, in their order; a function of the card alone.

    ``unreliable``: the figures likely overstate robustness, or are wrong. ``caution``: an honest model was measured
    weakly. ``not checked``: the card does not hold the evidence.

    Args:
        card: Its ``checks`` are what :func:`~robustseg.evaluation.checks.probe_model` returned, or None; its flags and
            verdict are not asked.
    """
    return [judge(card) for judge in _JUDGES]


def overall(flags: Sequence[Flag]) -> Verdict:
    """Return the worst verdict; a missing check counts as caution, since silence is no evidence.

    Raises:
        ValueError: There is no flag.
    """
    if not flags:
        raise ValueError("flags = []: a card without a single check has no verdict; give those of trust_flags.")
    worst = max((flag.verdict for flag in flags), key=SEVERITY.__getitem__)
    return "caution" if worst == "not checked" else worst
