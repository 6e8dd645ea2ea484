"""Targeted attacks that bring their own target: selectable like any attack, called with the true targets."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from robustseg.attacks.base import Attack, OnStep, check_logits
from robustseg.attacks.losses import IGNORED
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.target_maps import TargetMap
from robustseg.attacks.victim import Victim


class Targeted(Attack):
    """Runs a targeted attack towards a target map, so that whoever calls it gives the true targets.

    The map is made once per call from each image's own targets (the sample ids are not known here, see
    :class:`~robustseg.attacks.Scene`). An image whose map wants nothing comes back unchanged. Threat, ignore index and
    seed are those of the inner attack; ``targeted`` is False, since the call's targets are the true ones.

    Args:
        attack: The attack, with ``targeted: true``.
        target_map: What it is to make the model show.

    Raises:
        ValueError: ``attack`` is not targeted.
    """

    def __init__(self, attack: Attack, target_map: TargetMap):
        if not attack.targeted:
            raise ValueError(
                f"attack = {type(attack).__name__} is not targeted: give it targeted: true, so that it aims at the map."
            )
        super().__init__(targeted=False, ignore_index=attack.ignore_index, seed=attack.seed)
        self.attack = attack
        self.target_map = target_map
        self.threat = attack.threat

    def perturb(  # noqa: D102
        self, victim: Victim, images: Tensor, targets: Tensor, noise: NoiseSource, on_step: OnStep | None
    ) -> Tensor:
        victim = _Checked(victim, targets)
        wanted = self.target_map(targets, ignore_index=IGNORED)
        aimed = (wanted != IGNORED).flatten(1).any(1)
        if bool(aimed.all()):
            return self.attack.perturb(victim, images, wanted, noise, on_step)
        return self.attack._perturb_some(aimed.nonzero()[:, 0], victim, images, wanted, noise, on_step)

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {
            "attack": type(self).__name__,
            "eps": None if self.threat is None else str(self.threat.eps),
            "norm": None if self.threat is None else self.threat.norm,
            "targeted": self.targeted,
            "target_map": repr(self.target_map),
            **{f"inner.{name}": value for name, value in self.attack.describe().items()},
        }


class _Checked(Victim):
    """A victim whose first answer is held against the true targets: the map may hide labels that are no classes."""

    def __init__(self, victim: Victim, targets: Tensor):
        super().__init__(victim.model, 0)
        self.forwards, self.backwards, self._rows = victim.forwards, victim.backwards, victim._rows
        self._targets: Tensor | None = targets

    def __call__(self, images: Tensor) -> Tensor:
        logits = super().__call__(images)
        if self._targets is not None:
            check_logits(logits, images, self._targets, differentiable=images.requires_grad)
            self._targets = None
        return logits
