"""Loggers and their errors, which end no run that has begun, and the pictures that each of them takes."""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from types import new_class
from typing import Any

import numpy as np
from lightning_fabric.utilities.rank_zero import rank_zero_only
from lightning_utilities.core.rank_zero import rank_zero_warn
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning.loggers import Logger
from pytorch_lightning.loggers.logger import DummyLogger

from robustseg.files import write_whole

PANELS = "panels"
"""Folder of the pictures that no logger took, within that of a run or an evaluation."""

_NEEDED = ("log_metrics", "log_hyperparams")
_SPARED = ("log_image", "log_graph", "save", "finalize", "after_save_checkpoint")


class LoggerError(ValueError):
    """Error of a logger at the start of a run; the message names the logger and the remedy."""


def guard(logger: Logger, before: Callable[[Logger], None] = lambda logger: None) -> Logger:
    """Let a logger's errors be warnings, once it has been started: a run is worth more than its log.

    Before :func:`start` the errors of its experiment, figures and settings are :class:`LoggerError`, since nothing has
    been trained yet. The object stays what it is, of a subclass of its own class.

    Args:
        logger: Changed in place.
        before: Called on the logger each time that its experiment is asked for; its errors are passed on.
    """
    kind = type(logger)
    # local, so that no configuration finds it by its name
    guarded: dict[str, Any] = {"__module__": __name__, "__qualname__": f"guard.<locals>.{kind.__name__}"}
    for name in (*_NEEDED, *_SPARED):
        if callable(method := getattr(kind, name, None)):
            guarded[name] = _guarded(method, name)
    if isinstance(experiment := getattr(kind, "experiment", None), property):
        guarded["experiment"] = property(_opened(experiment, before))
    logger.__class__ = new_class(kind.__name__, (kind,), exec_body=lambda space: space.update(guarded))
    return logger


def start(logger: Logger) -> None:
    """Mark a guarded logger as one that works; from here on its errors are warnings."""
    vars(logger)["_works"] = True


def _guarded(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    @wraps(method)
    def call(self: Logger, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except LoggerError:
            raise
        except Exception as error:
            if name in _NEEDED and "_works" not in vars(self):
                raise refusal(type(self), error) from error
            warn_of(self, error)
        return None

    return call


def _opened(experiment: property, before: Callable[[Logger], None]) -> Callable[[Logger], Any]:
    get = experiment.fget
    assert get is not None

    def opened(self: Logger) -> Any:
        before(self)
        try:
            return get(self)
        except Exception as error:
            if "_works" in vars(self):
                raise
            raise refusal(type(self), error) from error

    return opened


def refusal(kind: type[Logger], error: Exception) -> LoggerError:
    """Return the error for a logger that cannot be built or opened; it names a package that is missing."""
    name = kind.__name__
    if isinstance(error, ModuleNotFoundError):
        # Lightning's own words name a requirement; Python's name a module.
        found = re.search(r"Requirement '([\w-]+)", str(error))
        return missing(kind, found[1] if found else error.name or str(error))
    return LoggerError(f"trainer.logger: {name} cannot start ({_words(error)}): mend that, or leave this logger out.")


def missing(kind: type[Logger], package: str) -> LoggerError:
    """Return the error for a logger whose package is not there."""
    return LoggerError(
        f"trainer.logger: {kind.__name__} needs the package {package}, which is not installed: pip install {package}, "
        "or choose another logger."
    )


def warn_of(logger: Logger, error: Exception) -> None:
    """Warn of a logger's error, once for each logger."""
    failures = vars(logger)["_failures"] = vars(logger).get("_failures", 0) + 1
    if failures == 1:
        rank_zero_warn(
            f"trainer.logger: {type(logger).__name__} failed ({_words(error)}): it lacks what it was given; the run "
            "goes on, and this is said once."
        )


def _words(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


class PanelFiles(Logger):
    """A logger of pictures only, as PNG files ``panels/<tag>/step_<n>.png``: those that no other logger takes.

    Args:
        folder: Of the run or the evaluation.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    @property
    def name(self) -> str:
        """Name of the folder that has the pictures."""
        return PANELS

    @property
    def version(self) -> str:
        """Name of the run's folder."""
        return self.folder.name

    @property
    def save_dir(self) -> str:
        """Folder of the run or the evaluation."""
        return str(self.folder)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Do nothing: figures are for the other loggers."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the settings are in config.yaml."""

    @rank_zero_only
    def log_image(self, key: str, images: list[NDArray[np.uint8]], step: int | None = None) -> None:
        """Write pictures of H×W×3; one of the same tag and step is replaced."""
        parts = [re.sub(r"[^\w+-]", "_", part) or "_" for part in key.split("/")]
        for picture in images:
            content = io.BytesIO()
            Image.fromarray(picture).save(content, "PNG")
            path = Path(self.folder, PANELS, *parts, f"step_{step or 0}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(content.getvalue(), path, durable=False)


def log_picture(loggers: Iterable[Logger], tag: str, picture: NDArray[np.uint8], step: int) -> None:
    """Give a picture to each logger that can take one, and to :class:`PanelFiles` if none did.

    Args:
        loggers: Of the trainer. TensorBoard, Weights & Biases, Comet and MLflow have different methods for pictures;
            a logger of another project is served if it has one of them.
        tag: Name of the picture.
        picture: H×W×3.
        step: Step of training that it belongs to.
    """
    files = [logger for logger in loggers if isinstance(logger, PanelFiles)]
    # not any(...): each of them shall have it
    taken = [_gave(logger, tag, picture, step) for logger in loggers if logger not in files]
    if True not in taken:
        for logger in files:
            logger.log_image(tag, [picture], step)


def _gave(logger: Logger, tag: str, picture: NDArray[np.uint8], step: int) -> bool:
    """Return whether a logger took the picture."""
    if isinstance(logger, DummyLogger):
        return False  # has every method, and none does anything
    failures = vars(logger).get("_failures", 0)
    try:
        for function, args, kwargs in _ways(logger, tag, picture, step):
            if callable(function) and _takes(function, args, kwargs):
                function(*args, **kwargs)
                return bool(vars(logger).get("_failures", 0) == failures)
    except Exception as error:
        warn_of(logger, error)
    return False


def _ways(
    logger: Logger, tag: str, picture: NDArray[np.uint8], step: int
) -> Iterable[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    experiment = getattr(logger, "experiment", None)
    yield getattr(logger, "log_image", None), (), {"key": tag, "images": [picture], "step": step}
    yield getattr(experiment, "add_image", None), (tag, picture, step), {"dataformats": "HWC"}
    method = getattr(experiment, "log_image", None)
    yield method, (picture,), {"name": tag, "step": step}
    yield method, (getattr(logger, "run_id", None), picture), {"key": tag, "step": step}


def _takes(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a function takes these arguments; an unknown signature counts as one that does."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:
        pass
    return True
