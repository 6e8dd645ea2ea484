"""The modes of callbacks that monitor a figure: whether a higher or a lower value is the better one."""

from __future__ import annotations

from typing import Any, Literal

from jsonargparse import Namespace

from robustseg.evaluation.figures import FIGURES
from robustseg.resume.runs import RunError

AUTO = "auto"
"""Default of ``checkpoint.mode``: the direction of the figure."""

Mode = Literal["min", "max"]


def direction_of(figure: str) -> Mode | None:
    """Return the mode that keeps the better of two values of a logged figure, by its name's last part; None if
    unknown."""
    name = figure.rpartition("/")[2]
    if name == "skipped" or "loss" in name.split("_"):
        return "min"
    better = {each.logged: each.better for each in FIGURES if each.logged is not None}.get(name)
    return None if better is None else "max" if better == "higher" else "min"


def settle_modes(config: Namespace, given: Any, refuse: bool = True) -> None:
    """Set the mode of each callback of a configuration that monitors a figure and was not given one.

    Args:
        config: As parsed; changed in place.
        given: The entry ``trainer.callbacks`` without the defaults of its classes.
        refuse: Whether a mode against the figure's direction is an error.

    Raises:
        RunError: A mode contradicts the direction of a figure.
    """
    written = as_list(given)
    for place, entry in enumerate(as_list(config.trainer.callbacks)):
        arguments = entry.get("init_args") if isinstance(entry, Namespace) else None
        if isinstance(arguments, Namespace) and isinstance(arguments.get("monitor"), str) and "mode" in arguments:
            own = written[place] if place < len(written) else None
            mode = None if own is None or isinstance(own, str) else (own.get("init_args") or {}).get("mode")
            _settle(arguments, mode is not None, f"trainer.callbacks[{place}]", refuse)
    checkpoint = config.checkpoint
    _settle(checkpoint, checkpoint.mode != AUTO, "checkpoint", refuse)
    if checkpoint.mode == AUTO:
        checkpoint.mode = "max"


def _settle(arguments: Namespace, is_given: bool, key: str, refuse: bool) -> None:
    direction = direction_of(arguments.monitor or "")
    if direction is not None and not is_given:
        arguments.mode = direction
    elif refuse:
        refuse_mode(key, arguments.monitor or "", arguments.mode)


def refuse_mode(key: str, figure: str, mode: object) -> None:
    """Refuse a mode against the direction of a figure of this package.

    Args:
        key: Section of the configuration that has both.
        figure: Name of the figure; those of somebody else may have any direction.
        mode: ``min`` or ``max``; anything else is not judged here.

    Raises:
        RunError: It contradicts the direction.
    """
    direction = direction_of(figure)
    if figure.startswith(("train/", "val/")) and mode in ("min", "max") and direction not in (None, mode):
        better = "higher" if direction == "max" else "lower"
        raise RunError(f"{key}.mode = {mode}, but {figure} is better when {better}: use {direction}, or leave it out.")


def as_list(value: Any) -> list[Any]:
    """None, one or several values as a list."""
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
