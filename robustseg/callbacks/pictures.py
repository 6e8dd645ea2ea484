"""Panels of adversarial examples in the loggers of a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytorch_lightning as pl

from robustseg.data.lightning import data_of
from robustseg.evaluation import Example, draw_panel
from robustseg.training.loggers import log_picture


def log_panel(trainer: pl.Trainer, tag: str, examples: Sequence[Example]) -> None:
    """Log one picture, with a row per example, to each of the trainer's loggers that can take one.

    Args:
        trainer: The trainer; its data set has ``palette``, one colour per class. Nothing is logged without one.
        tag: Name of the picture.
        examples: The examples; nothing is logged if empty, as on all ranks other than the first.
    """
    palette = getattr(data_of(trainer), "palette", None)
    if not examples or palette is None:
        return
    # the step of the figures beside it: a continued run leaves out those that come later
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    log_picture(trainer.loggers, tag, np.asarray(draw_panel(examples, palette)), step)
