"""Robustness evaluation: pure torch, usable in any loop."""

from robustseg.evaluation.evaluator import CLEAN, Attacked, RobustnessEvaluator, full_precision
from robustseg.evaluation.panels import Example, draw_panel
from robustseg.evaluation.record import FOOLED, AttackRecord
from robustseg.evaluation.results import distances_table, results_record, scores_table, write_json

__all__ = [
    "CLEAN",
    "FOOLED",
    "AttackRecord",
    "Attacked",
    "Example",
    "RobustnessEvaluator",
    "distances_table",
    "draw_panel",
    "full_precision",
    "results_record",
    "scores_table",
    "write_json",
]
