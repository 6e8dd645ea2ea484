"""Lightning callbacks: robust scores, pictures, progress."""

from robustseg.callbacks.averaging import EMA
from robustseg.callbacks.progress import EpochLines, ShowTraining
from robustseg.callbacks.robustness import RobustnessEvaluation

__all__ = ["EMA", "EpochLines", "RobustnessEvaluation", "ShowTraining"]
