"""MLAttack: PGD on the cross-entropy plus the distance of intermediate features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from robustseg.attacks.base import OnStep
from robustseg.attacks.losses.base import IGNORED
from robustseg.attacks.losses.features import FeatureVictim, Taps
from robustseg.attacks.losses.pixelwise import CrossEntropy
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.presets.base import SignAttack
from robustseg.attacks.victim import Victim


class MLAttack(SignAttack):
    """PGD on the cross-entropy plus the distance of the features of several layers from those of the clean image.

    It follows Gupta and Rahtu, "MLAttack: Fooling Semantic Segmentation Networks by Multi-layer Attacks", GCPR 2019.
    Neither their weights nor code are public, so this is a reconstruction of the idea, and its figures are not the
    paper's. The objective of an image is the mean CE over the valid pixels + Σ_l w_l·‖f_l − f_l⁰‖²/‖f_l⁰‖², multiplied
    by the number of valid pixels as for every loss here. Dividing by the size of the clean features gives layers of any
    width, resolution and scale equal weight. A targeted attack decreases the CE to the target and still increases the
    distance.

    Positions of feature maps B×C×h×w count by the share of valid pixels under them; in other features (tokens,
    channels last) all positions count. At the clean image the distance has no gradient, hence the random start.
    Costs one forward more than PGD, for the clean features, which stay in memory while the attack runs. The model must
    be a module whose chosen layers run once per forward.

    Args:
        layers: Dotted names as in ``named_modules()``, or endings of names that only one layer has; or
            integers, which count the feature maps of the model's timm backbone (negative ones from the last).
        weights: w_l ≥ 0, one per layer or one for all; 0 leaves plain PGD.
        **options: Arguments of :class:`~robustseg.attacks.presets.base.SignAttack`.

    Raises:
        ValueError: No layer, weights that are negative or do not fit the layers, or an error of
            :class:`~robustseg.attacks.IterativeAttack`.
    """

    def __init__(
        self,
        *,
        layers: Sequence[int | str] = (-2, -1),
        weights: float | Sequence[float] = 1.0,
        **options: Any,
    ):
        super().__init__(loss=CrossEntropy(), **options)
        if isinstance(layers, str) or not layers or "" in layers:
            raise ValueError(f"layers = {layers!r}: give a list of at least one layer's name or index.")
        each = [float(weights)] * len(layers) if isinstance(weights, (int, float)) else [float(w) for w in weights]
        if len(each) != len(layers):
            raise ValueError(f"weights = {weights}: {len(layers)} layers need as many weights, or one for all.")
        if not all(0 <= weight < math.inf for weight in each):
            raise ValueError(f"weights = {weights}: a layer's weight is a finite number, 0 or more.")
        self.layers = tuple(layers)
        self.weights = tuple(each)

    def perturb(  # noqa: D102
        self, victim: Victim, images: Tensor, targets: Tensor, noise: NoiseSource, on_step: OnStep | None
    ) -> Tensor:
        if self.threat.eps == 0:
            return images
        with Taps(victim.model, self.layers) as taps:
            watched = FeatureVictim(victim, taps, self.weights, images, targets)
            return super().perturb(watched, images, targets, noise, on_step)

    def _objective(self, victim: Victim, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        assert isinstance(victim, FeatureVictim)
        loss = super()._objective(victim, logits, targets, progress)
        pixels = (targets != IGNORED).flatten(1).sum(1)
        # A targeted attack decreases the objective, so the distance enters with a minus.
        return loss + (-1 if self.targeted else 1) * pixels * victim.distance()

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {
            **super().describe(),
            "layers": list(self.layers),
            "weights": list(self.weights),
        }
