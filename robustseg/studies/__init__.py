"""Studies of a trained model: curves, ablations, transfer and detection, each with a table and plots."""

from robustseg.studies.ablations import DynamicScaleAblation, ScheduleAblation
from robustseg.studies.convergence import Convergence
from robustseg.studies.curves import EpsCurve, StepCurve
from robustseg.studies.detection import Detection
from robustseg.studies.errors import StudyError
from robustseg.studies.run import run_study, run_transfer
from robustseg.studies.scales import MultiScaleEvaluation
from robustseg.studies.study import Answering, Study, StudyResult
from robustseg.studies.transfer import TransferMatrix

__all__ = [
    "Answering",
    "Convergence",
    "Detection",
    "DynamicScaleAblation",
    "EpsCurve",
    "MultiScaleEvaluation",
    "ScheduleAblation",
    "StepCurve",
    "Study",
    "StudyError",
    "StudyResult",
    "TransferMatrix",
    "run_study",
    "run_transfer",
]
