"""Robustness evaluation: pure torch, usable in any loop."""

from robustseg.evaluation.attacking import CLEAN, Attacked
from robustseg.evaluation.card import Card
from robustseg.evaluation.card_file import read_card
from robustseg.evaluation.disk import DiskSink
from robustseg.evaluation.errors import EvaluationError, ReportError
from robustseg.evaluation.evaluator import Evaluator
from robustseg.evaluation.panels import Example, draw_panel
from robustseg.evaluation.record import FOOLED, AttackRecord
from robustseg.evaluation.sinks import MemorySink, Sink
from robustseg.numerics.precision import full_precision

__all__ = [
    "CLEAN",
    "FOOLED",
    "AttackRecord",
    "Attacked",
    "Card",
    "DiskSink",
    "EvaluationError",
    "Evaluator",
    "Example",
    "MemorySink",
    "ReportError",
    "Sink",
    "draw_panel",
    "full_precision",
    "read_card",
]
