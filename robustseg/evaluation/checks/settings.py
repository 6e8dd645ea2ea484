"""The attacks' settings in a card: their threat model, their losses, and if they follow the gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from robustseg.attacks.describe import CLASS
from robustseg.evaluation.card import AttackRow, AttackSettings
from robustseg.types import parse_fraction

Row = AttackRow

_BLACK_BOX = ("Square",)
_ELSEWHERE = ("source", "path")
"""Settings of attacks that take their perturbation from another model or from a file."""


def threat_of(row: Row) -> tuple[str, str] | None:
    """(ε, norm), None for an attack whose perturbation may have any size."""
    settings = row.settings
    return None if settings.eps is None else (str(parse_fraction(settings.eps, "eps")), str(settings.norm))


def untargeted(row: Row) -> bool:
    """Return whether the attack is untargeted."""
    return not row.settings.targeted and "target_map" not in row.settings.others


def white_box(row: Row) -> bool:
    """Return True for an attack that follows the gradient of the evaluated model itself.

    Attacks without gradients, on a source model or read from a file are not white-box.
    """
    elsewhere = any(key.startswith(_ELSEWHERE) for attack in row.settings.nested() for key in attack.others)
    follows = any(member.attack not in _BLACK_BOX for member in _members(row.settings))
    return follows and not elsewhere and row["backwards"] != 0


def losses_of(settings: AttackSettings, one_step: bool = False) -> set[str]:
    """Names of the losses of an attack and of its members.

    An attack without a named loss, such as CW, follows one of its own and counts by its name.

    Args:
        settings: Of the attack.
        one_step: Count the loss of a single step as well.
    """
    return {name for member in _members(settings) for name in _loss(member, one_step)}


def _members(settings: AttackSettings) -> Iterator[AttackSettings]:
    """Return the settings of an ensemble's members, or of the attack itself."""
    if not settings.members:
        yield settings
    for member in settings.members:
        yield from _members(member)


def _loss(settings: AttackSettings, one_step: bool) -> Iterator[str]:
    if settings.attack in _BLACK_BOX or (settings.steps == 1 and not one_step):
        return
    loss = settings.others.get("loss", settings.attack)
    # The description of an older version, where it was opaque, is a text.
    yield str(loss.get(CLASS) if isinstance(loss, Mapping) else loss).split("(")[0]
