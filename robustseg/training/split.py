"""The split of a mini-batch into its clean and its adversarial part."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robustseg.attacks import Attack, AttackMode, NoiseSource, Search
from robustseg.attacks.guard import Model
from robustseg.models import SlidingWindow
from robustseg.types import Batch


class TrainingError(RuntimeError):
    """An error that stops training; the message names the cause and the remedy."""


class MixedBatch(NamedTuple):
    """A batch whose first ``clean`` images are untouched and whose others are adversarial."""

    images: Tensor
    """B×3×H×W in [0, 1]."""
    targets: Tensor
    """B×H×W."""
    ids: list[str]
    """B sample ids."""
    clean: int
    """Number of clean images."""


def refuse_windows(window: SlidingWindow | None, height: int, width: int) -> None:
    """Refuse training images that the attacker and the validation would see in windows, but the update whole.

    Raises:
        TrainingError: The images are larger than a window.
    """
    if window is not None and not window.covers(height, width):
        raise TrainingError(
            f"training images of {height}×{width} pixels are larger than model.window.size = {list(window.size)}: the "
            "update sees crops whole, but the attacker and the validation would see windows; set data.crop_size to the "
            "window's size or less."
        )


class AdversarialSplit:
    """The split of each rank's batch: the last part is attacked, and no attack step is spent on the rest.

    Args:
        fraction: Share of the batch that is trained on as adversarial examples, from 0 (none) to 1 (all); 0.5 in
            the papers (Gu et al., ECCV 2022, Algorithm 2). Rounded to whole images, half up; for a fraction
            strictly between 0 and 1 both parts get at least one image.
        mode: Mode of the model during the attack, see :func:`~robustseg.attacks.attack_mode`.
        search: Precision that the attack searches in; None for that of the caller.

    Raises:
        ValueError: ``fraction`` is outside of [0, 1], or ``mode`` is unknown.
    """

    def __init__(self, fraction: float = 0.5, mode: AttackMode = "eval", search: Search | None = None):
        if not 0 <= fraction <= 1:
            raise ValueError(
                f"adversarial_fraction = {fraction} is outside of [0, 1]: it is the share of each batch to attack."
            )
        if mode not in ("eval", "train"):
            raise ValueError(f"attack_mode = {mode!r}: use eval or train.")
        self.fraction = fraction
        self.mode = mode
        self.search = search

    def sizes(self, batch_size: int, global_batch_size: int | None = None) -> tuple[int, int]:
        """Compute the numbers of clean and of adversarial images in a batch.

        Args:
            batch_size: Number of images in a rank's batch.
            global_batch_size: ``data.global_batch_size``, if set, for the message; ``batch_size`` is a rank's share of
                it.

        Raises:
            TrainingError: A batch of one image cannot be split.
        """
        if self.fraction in (0, 1):
            adversarial = batch_size if self.fraction == 1 else 0
        elif batch_size < 2:
            remedy = "raise data.batch_size to at least 2"
            if global_batch_size is not None:
                remedy = (
                    f"it is the share of data.global_batch_size = {global_batch_size}, so raise that, lower "
                    "trainer.accumulate_grad_batches or trainer.devices"
                )
            raise TrainingError(
                f"a batch of {batch_size} image per rank cannot be split into a clean and an adversarial part: "
                f"{remedy}, or set model.adversarial_fraction to 0 or 1."
            )
        else:
            adversarial = min(max(math.floor(self.fraction * batch_size + 0.5), 1), batch_size - 1)
        return batch_size - adversarial, adversarial

    def refuse_search(self, device: torch.device, dtype: torch.dtype) -> None:
        """Refuse a precision of the search that a model cannot be searched in.

        Args:
            device: Device of the model.
            dtype: Number format of the model.

        Raises:
            TrainingError: The device does not compute in it, or the model is not in float32.
        """
        reason = "" if self.search is None else self.search.why_not(device, dtype)
        if self.search is not None and reason:
            raise TrainingError(
                f"model.attack_search.precision = {self.search.precision}: {reason}: leave attack_search out."
            )

    def __call__(self, model: Model, attack: Attack, batch: Batch, noise: NoiseSource) -> MixedBatch:
        """Replace the last images of ``batch`` by adversarial examples of ``model``.

        Args:
            model: The model in training, not its distributed wrapper.
            attack: The attacker.
            batch: This rank's batch.
            noise: Random numbers of the attack, for the attacked images.

        Raises:
            TrainingError: A batch of one image cannot be split.
            AttackError: The attack fails on these images.
        """
        clean, adversarial = self.sizes(len(batch.images))
        if not adversarial:
            return MixedBatch(*batch, clean)
        images, targets = batch.images[clean:], batch.targets[clean:]
        images_adv = attack(model, images, targets, generator=noise, mode=self.mode, search=self.search)
        return MixedBatch(torch.cat([batch.images[:clean], images_adv]), batch.targets, batch.ids, clean)
