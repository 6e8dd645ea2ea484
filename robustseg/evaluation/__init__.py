"""Robustness evaluation: pure torch, usable in any loop."""

from robustseg.evaluation.card import Card
from robustseg.evaluation.card_file import read_card
from robustseg.evaluation.errors import EvaluationError, ReportError
from robustseg.evaluation.evaluator import CLEAN, Attacked, RobustnessEvaluator, full_precision
from robustseg.evaluation.panels import Example, draw_panel
from robustseg.evaluation.record import FOOLED, AttackRecord
from robustseg.evaluation.results import distances_table, flags_table, rejection_table, scores_table, write_json
from robustseg.evaluation.resumable import ResumableEvaluator

__all__ = [
    "CLEAN",
    "FOOLED",
    "AttackRecord",
    "Attacked",
    "Card",
    "EvaluationError",
    "Example",
    "ReportError",
    "ResumableEvaluator",
    "RobustnessEvaluator",
    "distances_table",
    "draw_panel",
    "flags_table",
    "full_precision",
    "read_card",
    "rejection_table",
    "scores_table",
    "write_json",
]
