"""Errors that users are meant to see, each as one line."""

from __future__ import annotations

from lightning_fabric.utilities.exceptions import MisconfigurationException

from robustseg.attacks import AttackError
from robustseg.data import DataError
from robustseg.detectors import DetectorError
from robustseg.evaluation import EvaluationError
from robustseg.evaluation.errors import ReportError
from robustseg.models import ModelError
from robustseg.resume.checkpoint_files import CheckpointError
from robustseg.resume.runs import RunError
from robustseg.shipped import ConfigFileError
from robustseg.studies import StudyError
from robustseg.training import TrainingError

EXPECTED_ERRORS = (
    AttackError,
    CheckpointError,
    ConfigFileError,
    DataError,
    DetectorError,
    EvaluationError,
    ModelError,
    ReportError,
    RunError,
    StudyError,
    TrainingError,
    MisconfigurationException,
)
"""Exceptions about a wrong request: a command prints their message without a traceback."""


class ConfigError(ValueError):
    """A value of the configuration was refused by what it configures."""


def cause_of(error: ValueError) -> BaseException:
    """Find what a constructor said: the parser wraps it into a list of the types that it tried."""
    cause: BaseException = error
    while isinstance(cause.__cause__, ValueError):
        cause = cause.__cause__
    return cause
