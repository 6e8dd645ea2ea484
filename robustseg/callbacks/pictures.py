"""Panels of adversarial examples in TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger

from robustseg.data.lightning import data_of
from robustseg.evaluation import Example, draw_panel


def log_panel(trainer: pl.Trainer, tag: str, examples: Sequence[Example]) -> None:
    """Log one picture, with a row per example, to each of the trainer's TensorBoard loggers.

    Args:
        trainer: The trainer; its data set has ``palette``, one colour per class. Nothing is logged without one.
        tag: TensorBoard tag.
        examples: The examples; nothing is logged if empty, as on all ranks other than the first.
    """
    palette = getattr(data_of(trainer), "palette", None)
    if not examples or palette is None:
        return
    panel = np.asarray(draw_panel(examples, palette))
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, panel, trainer.global_step, dataformats="HWC")
