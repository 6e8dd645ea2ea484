"""Attacks on a model and a detector at once: through a blur, or on patches beside the whole image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from robustseg.attacks import Attack, AttackError, MLAttack, Targeted
from robustseg.attacks.base import OnStep
from robustseg.attacks.losses.base import ClassPixels
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.universal.fit import Universal
from robustseg.attacks.victim import Victim
from robustseg.detectors.canvas import BlurredVictim, PatchVictim, TwiceVictim
from robustseg.detectors.errors import DetectorError
from robustseg.detectors.scale import GaussianBlur

_STREAM = 0xADA7
"""Key of the patches' noise, which leaves the inner attack's own noise as it is without patches."""


class AdaptiveAttack(Attack):
    """An attack that knows of a detector: an inner attack on the model's answers to further views of the image.

    Threat, ``targeted``, ignore index and seed are the inner attack's. Xiao et al. bound the perturbation by 0.06 "in
    terms of L2 distance". We read this as the root mean square, ``DAG(eps=0.06, norm="rms")``: as the L2 norm of an
    image's perturbation it would be 0.04 grey levels per value at 240×180 pixels.

    Args:
        attack: The inner attack.

    Raises:
        DetectorError: ``attack`` is not an attack, makes its own targets, or applies a perturbation found before.
    """

    def __init__(self, attack: Attack):
        if not isinstance(attack, Attack):
            raise DetectorError(f"attack = {attack!r} is no attack: give an object, DAG() for example.")
        super().__init__(targeted=attack.targeted, ignore_index=attack.ignore_index, seed=attack.seed)
        self.attack = attack
        self.threat = attack.threat
        name = type(self).__name__
        for inner in _inside(attack):
            if isinstance(inner, Targeted):
                raise DetectorError(
                    f"attack = {type(inner).__name__} makes its targets from those of the image: put it outside, "
                    f"{type(inner).__name__}({name}(…), target_map)."
                )
            if isinstance(inner, Universal):
                raise DetectorError(
                    f"attack = {type(inner).__name__} applies a perturbation that is known before: no model is asked, "
                    "so that there is nothing to adapt; wrap the attack that finds it."
                )

    def _refuse_other_views(self) -> None:
        """Refuse inner attacks that cannot work on several answers side by side.

        Raises:
            DetectorError: The inner attack, or one inside it, moves targets, reads features or cuts patches itself.
        """
        for inner in _inside(self.attack):
            reason = None
            if getattr(inner, "transform", None) is not None:
                reason = "moves its targets with the image at each step: take one without input transform, such as PGD"
            elif isinstance(inner, MLAttack):
                reason = "compares features of one forward: take an attack that looks at logits only, such as DAG"
            elif isinstance(inner, OnPatches):
                reason = "cuts patches of the image itself: put it outside, and what is in here inside it"
            if reason is not None:
                raise DetectorError(f"attack = {type(inner).__name__} {reason}.")

    def for_data(self, class_pixels: ClassPixels) -> Attack:  # noqa: D102
        inner = self.attack.for_data(class_pixels)
        return self if inner is self.attack else self.replace(attack=inner)

    def _inner(
        self, victim: Victim, images: Tensor, targets: Tensor, noise: NoiseSource, on_step: OnStep | None
    ) -> Tensor:
        """Run the inner attack on a view of the model, whose verdict counts for its results."""
        images_adv = self.attack.perturb(victim, images, targets, noise, on_step)
        return self.attack.verified(victim, images, targets, images_adv)

    def verified(  # noqa: D102
        self, victim: Victim, images: Tensor, targets: Tensor, images_adv: Tensor
    ) -> Tensor:
        return images_adv  # they are, by the view of the model that was attacked

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the settings beside the inner attack's, as plain JSON."""

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {
            "attack": type(self).__name__,
            "eps": None if self.threat is None else str(self.threat.eps),
            "norm": None if self.threat is None else self.threat.norm,
            "targeted": self.targeted,
            **self.settings(),
            "inner": self.attack.describe(),
        }


class ThroughBlur(AdaptiveAttack):
    """An attack on the model behind a Gaussian blur, as if the blur were its first layer.

    Source: Xiao et al., ECCV 2018, Sec. 5.4, against scale consistency. The paper's attack considers only the answer to
    the blurred image. With ``whole`` the attack has to fool the model with and without the blur at once. This is
    stronger than the paper's, since the detector compares both answers; it costs two forwards and two gradients where
    the inner attack has one.

    Any attack can be inside. Logits shown to ``on_step`` are those of the blurred image, or with ``whole`` those of the
    image itself.

    Args:
        attack: The inner attack.
        sigma: Standard deviation of the Gaussian in pixels; the detector's, 0.5, 3 and 5 in the paper.
        whole: Attack the image without blur as well. Not for attacks with an input transform, nor MLAttack.

    Raises:
        DetectorError: ``sigma`` is not positive, or ``attack`` cannot be wrapped.
    """

    def __init__(self, attack: Attack, sigma: float = 3.0, whole: bool = False):
        super().__init__(attack)
        self.blur = GaussianBlur(sigma)
        self.whole = whole
        if whole:
            self._refuse_other_views()

    def perturb(  # noqa: D102
        self, victim: Victim, images: Tensor, targets: Tensor, noise: NoiseSource, on_step: OnStep | None
    ) -> Tensor:
        try:
            if not self.whole:
                return self._inner(BlurredVictim(victim, self.blur), images, targets, noise, on_step)
            both = TwiceVictim(victim, self.blur)
            shown = None if on_step is None else both.shown_to(on_step, targets)
            return self._inner(both, images, both.canvas_of(targets), noise, shown)
        except DetectorError as error:
            # The kernel is larger than these images: callers of attacks expect an AttackError.
            raise AttackError(str(error)) from error

    def settings(self) -> dict[str, Any]:  # noqa: D102
        return {"sigma": self.blur.sigma, "whole": self.whole}


class OnPatches(AdaptiveAttack):
    """An attack on the whole image and on K random patches of it at once, each patch predicted on its own.

    Source: Xiao et al., ECCV 2018, Sec. 5.4, against spatial consistency: "attack both the whole image and the selected
    K patches to the corresponding part of malicious target". We take K single patches, not pairs: any two patches that
    show the target agree where they overlap. Patches are uniform over their places in the image and drawn once per
    image. They come from the attack's noise, which is not the detector's. The paper does not publish the weights of its
    losses. Here each valid pixel of the image and of every patch has the same weight, in the inner attack's loss and in
    all its counts (active pixels, shares of fooled pixels, the best iterate).

    With ``redraw`` each forward sees new patches, so that the attack works against the expectation over patches. That
    is stronger than the paper's attack. An inner attack that keeps its best iterate then compares iterates by different
    patches. The inner attack is given one target for all pixels of patches, and their logits change places accordingly;
    an ignored pixel of a patch is replaced by a valid one of the image. Losses that weight or distinguish classes are
    refused.

    An untargeted attack fools each patch on its own, and nothing makes two patches agree. Against a detector, use a
    targeted attack.

    Cost: a patch counts as a forward, and a gradient through it as a backward. One step costs 1 + K of each, K of them
    on patch_size² pixels instead of H·W. The K·B patches are in one forward, or in several if they are more than
    ``patches_per_forward``: memory is then needed for one of these at a time, and each is computed once more for the
    gradient, which is not counted and takes about a third more time. The result is the same. Logits and targets
    shown to ``on_step`` are those of the whole image.

    Args:
        attack: The inner attack: any that works pixel by pixel on logits. Not those with an input transform, MLAttack,
            nor another OnPatches. ThroughBlur may be inside.
        patch_size: Side s of the patches in pixels; the detector's.
        k: Number K ≥ 1 of patches per image; the detector's in the paper's Table 1.
        redraw: Draw new patches for each forward.
        patches_per_forward: Most patches in one forward, but one of each image at least; null for as many as have 4
            million pixels together, 16 patches of 512×512 for example.

    Raises:
        DetectorError: ``patch_size``, ``k`` or ``patches_per_forward`` is below 1, or ``attack`` cannot be wrapped.
    """

    def __init__(
        self,
        attack: Attack,
        patch_size: int = 512,
        k: int = 50,
        redraw: bool = False,
        patches_per_forward: int | None = None,
    ):
        super().__init__(attack)
        if patch_size < 1:
            raise DetectorError(f"patch_size = {patch_size}: a side in pixels expected, that of the detector.")
        if k < 1:
            raise DetectorError(f"k = {k}: at least one patch is attacked (none is the attack without OnPatches).")
        if patches_per_forward is not None and patches_per_forward < 1:
            raise DetectorError(f"patches_per_forward = {patches_per_forward}: at least one, or null, expected.")
        self.patch_size = patch_size
        # Not among the settings of a result, which does not depend on it.
        self.patches_per_forward = patches_per_forward
        self.k = k
        self.redraw = redraw
        self._refuse_other_views()
        if redraw:
            self._refuse_class_weights()

    def _refuse_class_weights(self) -> None:
        for inner in _inside(self.attack):
            for loss in (getattr(inner, "loss", None), getattr(inner, "watched", None)):
                balanced = hasattr(loss, "class_pixels")
                if balanced or getattr(loss, "task_loss", "error") != "error":
                    raise DetectorError(
                        f"redraw = True with {type(inner).__name__} and {loss!r}, which tells classes apart: set "
                        "redraw to false, or take another loss."
                    )

    def perturb(  # noqa: D102
        self, victim: Victim, images: Tensor, targets: Tensor, noise: NoiseSource, on_step: OnStep | None
    ) -> Tensor:
        if self.threat is not None and self.threat.eps == 0:
            return images
        own = noise.fork(_STREAM, torch.device("cpu"))
        patches = PatchVictim(
            victim, self.patch_size, self.k, own, images, targets, self.redraw, self.patches_per_forward
        )
        shown = None if on_step is None else patches.shown_to(on_step, targets)
        return self._inner(patches, images, patches.canvas_of(targets), noise, shown)

    def settings(self) -> dict[str, Any]:  # noqa: D102
        return {"patch_size": self.patch_size, "k": self.k, "redraw": self.redraw}


def _inside(attack: Attack) -> Iterator[Attack]:
    """Yield the attack and, recursively, the attacks that it is made of."""
    yield attack
    members = [getattr(attack, "attack", None), *getattr(attack, "attacks", ())]
    for member in members:
        if isinstance(member, Attack):
            yield from _inside(member)
