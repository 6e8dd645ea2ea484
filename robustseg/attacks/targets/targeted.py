"""Targeted attacks with a built-in target map, called with the true targets like any attack."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from robustseg.attacks.base import Attack, OnStep
from robustseg.attacks.describe import describe_part
from robustseg.attacks.entry import read_aims
from robustseg.attacks.losses.base import IGNORED, ClassPixels
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.targets.maps import TargetMap
from robustseg.attacks.victim import Victim


class Targeted(Attack):
    """A targeted attack towards a target map; the caller gives the true targets.

    The map is made once per call from each image's own targets (the sample ids are not known here, see
    :class:`~robustseg.attacks.Scene`). An image without any wanted pixel is returned unchanged. Threat, ignore index
    and seed are those of the inner attack; ``targeted`` is False, since the call's targets are the true ones.

    Args:
        attack: The attack, with ``targeted: true``.
        target_map: Map from the true targets to the wanted ones.

    Raises:
        ValueError: ``attack`` is not targeted.
    """

    def __init__(self, attack: Attack, target_map: TargetMap):
        if not isinstance(attack, Attack) or not isinstance(target_map, TargetMap):
            raise ValueError(f"attack = {attack!r} or target_map = {target_map!r} is no object of that kind.")
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
        aims = victim.aims_of(self) or read_aims(self.wanted(targets, IGNORED))
        victim.require(
            aims.highest,
            lambda classes: (
                f"{self.target_map} wants class {aims.highest} but the model has {classes} classes: give the map a "
                "class of the model."
            ),
        )
        if bool(aims.aimed.all()):
            return self.attack.perturb(victim, images, aims.targets, noise, on_step)
        return self.attack._perturb_some(aims.aimed.nonzero()[:, 0], victim, images, aims.targets, noise, on_step)

    def own_targets(self, targets: Tensor) -> Tensor:  # noqa: D102
        return self.wanted(targets, IGNORED)

    def verified(  # noqa: D102
        self, victim: Victim, images: Tensor, targets: Tensor, images_adv: Tensor
    ) -> Tensor:
        # The inner attack aims at the map: its verdict counts the pixels that show it, of images that have any.
        wanted = self.wanted(targets, IGNORED)
        return self.attack.verified(victim, images, wanted, images_adv)

    def for_data(self, class_pixels: ClassPixels) -> Attack:  # noqa: D102
        inner = self.attack.for_data(class_pixels)
        return self if inner is self.attack else self.replace(attack=inner)

    def wanted(self, targets: Tensor, ignore_index: int | None = None) -> Tensor:
        """Compute the wanted targets of a batch, B×H×W.

        Args:
            targets: B×H×W true class ids, or the ignore index.
            ignore_index: Label of ignored pixels; the attack's by default.
        """
        return self.target_map(targets, ignore_index=self.ignore_index if ignore_index is None else ignore_index)

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {
            "attack": type(self).__name__,
            "eps": None if self.threat is None else str(self.threat.eps),
            "norm": None if self.threat is None else self.threat.norm,
            "targeted": self.targeted,
            "target_map": describe_part(self.target_map),
            "inner": self.attack.describe(),
        }
