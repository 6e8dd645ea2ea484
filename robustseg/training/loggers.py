"""Pictures for loggers, each in the way that the logger takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning.loggers import Logger


def log_picture(loggers: Iterable[Logger], tag: str, picture: NDArray[np.uint8], step: int) -> None:
    """Give a picture to each logger that can take one.

    Args:
        loggers: Of the trainer. TensorBoard, Weights & Biases, Comet and MLflow have different methods for pictures;
            a logger of another project is served if it has one of them.
        tag: Name of the picture.
        picture: H×W×3.
        step: Step of training that it belongs to.
    """
    for logger in loggers:
        experiment = getattr(logger, "experiment", None)
        ways: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
            (getattr(logger, "log_image", None), (), {"key": tag, "images": [picture], "step": step}),
            (getattr(experiment, "add_image", None), (tag, picture, step), {"dataformats": "HWC"}),
            (getattr(experiment, "log_image", None), (picture,), {"name": tag, "step": step}),
            (
                getattr(experiment, "log_image", None),
                (getattr(logger, "run_id", None), picture),
                {"key": tag, "step": step},
            ),
        ]
        for function, args, kwargs in ways:
            if callable(function) and _takes(function, args, kwargs):
                function(*args, **kwargs)
                break


def _takes(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a function takes these arguments; an unknown signature counts as one that does."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:
        pass
    return True
