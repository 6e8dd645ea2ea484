"""Figures that callbacks and schedulers monitor, from Python: names and direction are looked at before training."""

from __future__ import annotations

import warnings

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from robustseg.attacks import FGSM
from robustseg.callbacks import RobustnessEvaluation
from robustseg.data import SyntheticScenes
from robustseg.data.lightning import SegmentationDataModule
from robustseg.training import RobustSegmentation, TrainingError
from tests.helpers.nets import ToyNetwork

MEAN = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}


class Waiting(pl.Callback):
    """A callback of somebody else that monitors a figure."""

    def __init__(self, monitor: str, mode: str = "min"):
        self.monitor, self.mode = monitor, mode


class Plateau(RobustSegmentation):
    """A module whose schedule waits for a figure."""

    monitor, mode = "val/miou", "max"

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode=self.mode)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": self.monitor}}


class Own(RobustSegmentation):
    """A module of somebody else that logs a figure of its own and does not say so."""

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log("val/mine", 0.5)


def fit(tmp_path, *callbacks, module=RobustSegmentation, epochs: int = 1) -> pl.Trainer:
    data = SyntheticScenes(
        image_size=(32, 32), train_length=4, val_length=2, batch_size=2, val_batch_size=2, num_workers=0
    )
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, callbacks=list(callbacks), default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        enable_checkpointing=bool(callbacks),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module(ToyNetwork(7), **MEAN), datamodule=SegmentationDataModule(data))
    return trainer


@pytest.mark.parametrize(
    ("callback", "parts"),
    [
        (lambda: EarlyStopping("val/miou"), ["EarlyStopping.mode = min", "val/miou is better when higher: use max"]),
        (lambda: EarlyStopping("train/loss", mode="max"), ["EarlyStopping.mode = max", "use min"]),
        (lambda: ModelCheckpoint(monitor="val/fgsm/image_miou"), ["ModelCheckpoint.mode = min", "use max"]),
        (lambda: Waiting("val/miou"), ["Waiting.mode = min", "use max"]),
        (lambda: EarlyStopping("val/mIoU", mode="max"), ["EarlyStopping.monitor = val/mIoU", "Did you mean val/miou?"]),
        (lambda: Waiting("val/pgd/miou", "max"), ["Waiting.monitor = val/pgd/miou", "val/fgsm/miou"]),
        (lambda: Waiting("test/miou", "max"), ["Waiting.monitor = test/miou", "no such figure"]),
        (lambda: ModelCheckpoint(monitor="val/miou", mode="max", every_n_epochs=0), ["never looked at"]),
    ],
)
def test_a_monitor_that_cannot_be_is_refused_before_the_first_step(callback, parts, tmp_path, monkeypatch):
    monkeypatch.setattr(RobustSegmentation, "training_step", lambda *args: pytest.fail("it trains"))
    with pytest.raises(TrainingError) as found:
        watching = callback()
        if isinstance(watching, Waiting):
            watching.logged = ()  # it says that it logs nothing
        fit(tmp_path, RobustnessEvaluation({"fgsm": FGSM()}), watching)
    assert all(part in str(found.value) for part in parts), found.value


@pytest.mark.parametrize(
    ("monitor", "mode", "parts"),
    [
        ("val/miou", "min", ["ReduceLROnPlateau.mode = min", "use max"]),
        ("train/loss", "max", ["ReduceLROnPlateau.mode = max", "use min"]),
        ("val/mIoU", "max", ["ReduceLROnPlateau.monitor = val/mIoU", "Did you mean val/miou?"]),
    ],
)
def test_schedules_that_wait_for_a_figure_are_looked_at(monitor, mode, parts, tmp_path, monkeypatch):
    monkeypatch.setattr(Plateau, "monitor", monitor)
    monkeypatch.setattr(Plateau, "mode", mode)
    monkeypatch.setattr(Plateau, "logged", RobustSegmentation.logged, raising=False)
    with pytest.raises(TrainingError) as found:
        fit(tmp_path, module=Plateau)
    assert all(part in str(found.value) for part in parts), found.value


def test_what_can_be_monitored_trains(tmp_path):
    assert fit(tmp_path, module=Plateau).global_step == 2
    stopping = EarlyStopping("val/fgsm/miou", mode="max", patience=0, min_delta=2.0)
    assert fit(tmp_path, RobustnessEvaluation({"fgsm": FGSM()}), stopping, epochs=9).current_epoch == 2


def test_a_module_of_somebody_else_may_log_more(tmp_path):
    assert fit(tmp_path, EarlyStopping("val/mine"), module=Own).global_step == 2
