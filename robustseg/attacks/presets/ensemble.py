"""The worst of several attacks, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robustseg.attacks.base import Attack, OnStep, shift_rows
from robustseg.attacks.best import Best
from robustseg.attacks.losses.base import ClassPixels
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.victim import Victim
from robustseg.attacks.working import Batch


class WorstOf(Attack):
    """The strongest of several attacks for each image: fewest correct pixels (most pixels that show the target, if
    targeted). The clean image counts as well; of equal results the first is kept.

    A member's noise depends on its own seed and not on the members before it. With the default seeds its result is the
    same as alone, so that the ensemble is never weaker than any member (ties of logits count as correct here, as in
    all attacks). Images without a correct pixel left skip the members that follow, which changes no result. Costs one
    forward for the clean image and one per member besides the members' own cost.

    Args:
        attacks: The members, with the same ε and norm, all targeted or none.
        seed: Seed of the noise if the call gives no generator.

    Raises:
        ValueError: No member, an unbounded one, or members whose threat, aim or ignore index differ.
    """

    def __init__(self, attacks: Sequence[Attack], seed: int = 0):
        if not attacks:
            raise ValueError("attacks = []: the worst of no attacks is not defined.")
        for member in attacks:
            if not isinstance(member, Attack):
                raise ValueError(f"attacks = [… {member!r} …]: every member is an attack object, PGD() for example.")
        self.attacks = tuple(attacks)
        first = self.attacks[0]
        threats = {repr(member.threat) if member.threat else None for member in self.attacks}
        if len(threats) != 1 or None in threats:
            given = ", ".join(f"{type(m).__name__} {m.threat}" for m in self.attacks)
            raise ValueError(
                f"attacks have different threat models, or none ({given}): give all the same eps and norm."
            )
        for name in ("targeted", "ignore_index"):
            values = [getattr(member, name) for member in self.attacks]
            if len(set(values)) > 1:
                raise ValueError(f"attacks differ in {name} ({', '.join(map(str, values))}): give all the same.")
        super().__init__(targeted=first.targeted, ignore_index=first.ignore_index, seed=seed)
        self.threat = first.threat

    def perturb(  # noqa: D102
        self, victim: Victim, images: Tensor, targets: Tensor, noise: NoiseSource, on_step: OnStep | None
    ) -> Tensor:
        if self.threat is not None and self.threat.eps == 0:
            return images
        best = Best(targets, self.targeted)
        batch = Batch(victim, targets, torch.arange(len(images), device=images.device), images)
        self._offer(best, batch, images)
        rows = torch.arange(len(images))
        for member in self.attacks:
            going = best.unfinished(batch.rows)
            batch, rows = batch.select(going), rows[going]
            if not len(rows):
                break
            own = noise.fork(member.seed).select(rows, len(images))
            shown = None if on_step is None else shift_rows(on_step, batch.rows)
            images_adv = member.perturb(batch.victim, batch.images, batch.targets, own, shown)
            self._offer(best, batch, images_adv.detach())
        return best.images_adv

    def verified(  # noqa: D102
        self, victim: Victim, images: Tensor, targets: Tensor, images_adv: Tensor
    ) -> Tensor:
        return images_adv  # they are: the clean image was one of those that were compared

    @staticmethod
    def _offer(best: Best, batch: Batch, images_adv: Tensor) -> None:
        logits = batch.victim.verdict(images_adv)
        best.offer(images_adv, logits, batch.rows)

    def for_data(self, class_pixels: ClassPixels) -> Attack:  # noqa: D102
        members = [member.for_data(class_pixels) for member in self.attacks]
        same = all(member is own for member, own in zip(members, self.attacks, strict=True))
        return self if same else self.replace(attacks=members)

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {
            "attack": type(self).__name__,
            "eps": None if self.threat is None else str(self.threat.eps),
            "norm": None if self.threat is None else self.threat.norm,
            "targeted": self.targeted,
            "seed": self.seed,
            "members": [member.describe() for member in self.attacks],
        }
