"""Outputs of a network that the data has no class for."""

from __future__ import annotations

from collections.abc import Sequence

from robustseg.models.errors import ModelError


def kept_outputs(count: int, dropped: Sequence[int], void: int | None) -> list[int]:
    """Return the outputs of a network that its model has, in order; void is the last of them.

    Args:
        count: Number of the network's outputs.
        dropped: Outputs that the model leaves out.
        void: Output that is void, which the data ignores; None if there is none.

    Raises:
        ModelError: An output is not there or named twice, or no class would be left.
    """
    named = [*dropped, *([] if void is None else [void])]
    for output in named:
        if not 0 <= output < count:
            key = "void_class" if output == void else "drop_classes"
            raise ModelError(f"model.{key} names output {output}: the network has outputs 0 to {count - 1}.")
    if twice := [output for output in dict.fromkeys(named) if named.count(output) > 1]:
        raise ModelError(
            f"output {twice[0]} stands twice in model.drop_classes = {list(dropped)} and model.void_class = {void}: "
            "leave it out of one; a void class is predicted, a dropped one is not."
        )
    classes = [output for output in range(count) if output not in named]
    if not classes:
        raise ModelError(f"model.drop_classes = {list(dropped)} leaves none of the {count} outputs: leave some in.")
    return classes if void is None else [*classes, void]
