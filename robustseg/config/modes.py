"""The modes of callbacks that monitor a figure: whether a higher or a lower value is the better one."""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace

from robustseg.training.monitored import direction_of, refuse_mode

AUTO = "auto"
"""Default of ``checkpoint.mode``: the direction of the figure."""


def settle_modes(config: Namespace, given: Any, refuse: bool = True) -> None:
    """Set the mode of each callback of a configuration that monitors a figure and was not given one.

    Args:
        config: As parsed; changed in place.
        given: The entry ``trainer.callbacks`` without the defaults of its classes.
        refuse: Whether a mode against the figure's direction is an error.

    Raises:
        TrainingError: A mode contradicts the direction of a figure.
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


def as_list(value: Any) -> list[Any]:
    """None, one or several values as a list."""
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
