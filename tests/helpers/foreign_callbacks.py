"""Callbacks and loggers of somebody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import Logger


class Silent(pl.Callback):
    """Logs a figure, and does not say so."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("val/mine/f1", 0.5)


class Declared(Silent):
    """Says what it logs."""

    logged = ("val/mine/*",)


class Stopping(EarlyStopping):
    """Has a figure by default, and no argument for the mode."""

    def __init__(self, patience: int = 1):
        super().__init__("val/miou", patience=patience)


class Notes(Logger):
    """A logger without a log_dir, which takes pictures as Weights & Biases does."""

    kept: ClassVar[list[Notes]] = []

    def __init__(self, save_dir: str | None = None):
        super().__init__()
        self.folder = save_dir or "."
        self.times = 0
        self.names: set[str] = set()
        self.pictures: set[str] = set()
        self.settings: dict[str, Any] = {}
        self.kept.append(self)

    @property
    def name(self) -> str:
        return "notes"

    @property
    def version(self) -> str:
        return "x1"

    @property
    def save_dir(self) -> str:
        return self.folder

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.names |= metrics.keys()

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.settings = params
        self.times += 1

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self.pictures.add(key)


def images_of(batch: Any) -> int:
    """Number of images in a batch, for ThroughputMonitor."""
    return len(batch.images)


class LargerBatches(pl.Callback):
    """Changes the batch size of the data once training has begun, as a search for the largest one does."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.datamodule.data.batch_size = 8  # type: ignore[attr-defined]
        trainer.fit_loop._combined_loader = None
        trainer.fit_loop.setup_data()


class Accumulating(pl.Callback):
    """Changes the batches of an update in the second epoch."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            trainer.accumulate_grad_batches = 2


class OwnTimer(pl.callbacks.Timer):
    """A timer with a duration of its own."""

    def __init__(self) -> None:
        super().__init__(duration="00:00:10:00")


class Deeper(pl.callbacks.BatchSizeFinder):
    """A subclass of a callback that is refused."""


class Plain(Logger):
    """A logger with a folder under another name, without pictures or an experiment."""

    def __init__(self, log_dir: str | None = None):
        super().__init__()
        self.folder = Path(log_dir or ".")

    @property
    def name(self) -> str:
        return "plain"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        with (self.folder / "plain.txt").open("a") as file:
            file.writelines(f"{step} {key}\n" for key in metrics)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass


class Broken(Plain):
    """A logger that raises in one of its methods."""

    def __init__(self, raising: str):
        super().__init__()
        self.raising = raising
        self._fail("__init__")

    @property
    def version(self) -> int:
        self._fail("version")
        return 0

    def _fail(self, method: str) -> None:
        if method == self.raising:
            raise OSError("no space left")

    @property
    def experiment(self) -> object:
        self._fail("experiment")
        return None

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._fail("log_metrics")

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._fail("log_hyperparams")

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        raise OSError("no space left")

    def save(self) -> None:
        self._fail("save")

    def finalize(self, status: str) -> None:
        self._fail("finalize")


class Needing(Plain):
    """A logger whose package is not there."""

    def __init__(self) -> None:
        super().__init__()
        import no_such_package  # noqa: F401
