"""Fit and application of one perturbation for a whole data set."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustseg.attacks.base import Attack, OnStep
from robustseg.attacks.checks import unknown_class
from robustseg.attacks.describe import plain_setting
from robustseg.attacks.entry import checked_entry
from robustseg.attacks.errors import AttackError
from robustseg.attacks.gradients import input_gradient, refuse_non_finite
from robustseg.attacks.guard import Model, attack_mode
from robustseg.attacks.losses.base import IGNORED, AttackLoss
from robustseg.attacks.losses.pixelwise import CrossEntropy
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.precision import Search
from robustseg.attacks.scaling import leaf
from robustseg.attacks.settings import Checked
from robustseg.attacks.steps.sign import SignStep
from robustseg.attacks.targets.maps import TargetMap
from robustseg.attacks.threat import ThreatModel
from robustseg.attacks.universal.delta import UniversalDelta, ball, check_fit, folded, tiled, unit_free_threat
from robustseg.attacks.victim import Victim
from robustseg.devices import on_device, positions
from robustseg.terminal import track
from robustseg.types import IGNORE_INDEX, checked_ignore_index


class UniversalStep(NamedTuple):
    """State of a fit after a batch, for an observer. Tensors are detached; reading them may wait for the device."""

    epoch: int
    """1..epochs."""
    epochs: int
    batch: int
    """1, 2, … within the epoch."""
    images: int
    """Images of this epoch so far that have a valid pixel."""
    loss: Tensor
    """Mean loss over the valid pixels of each image of the batch with a valid pixel, one value each."""
    delta: Tensor
    """3×h×w, the perturbation at which the gradient was taken."""


OnUniversalStep = Callable[[UniversalStep], None]


class UniversalPerturbation(Checked):
    """Fit of one L∞ perturbation to all images of a data set (Metzen et al., ICCV 2017, "Universal Adversarial
    Perturbations Against Semantic Image Segmentation").

    Each epoch goes over all images and then takes one step δ ← clip_ε(δ + α·sign(ḡ)), where ḡ is the mean over the
    images of the gradient of each image's mean loss over its valid pixels, at δ; a targeted fit descends. So neither
    the batch size nor the order of the images matters, except for rounding. The model's input is clipped to [0, 1]; the
    gradient is that of the clipped input, so that a clipped value has one as well. The paper's static targets are a
    target map that is the same for all images, such as :class:`~robustseg.attacks.LabelImage`. Metzen et al. weight
    pixels and leave out those that show the target with confidence; that is not done here. The defaults are our choice.

    Args:
        eps: Radius, in units of the [0, 1] pixel range.
        step_size: α, in the same units.
        epochs: Passes over the data, with one step at the end of each.
        loss: Loss to increase, or to decrease if targeted; its schedule, if it has one, runs over the epochs.
        tile_size: (h, w) of a perturbation that is repeated over the images, whose sizes may then differ; by default
            it has the size of the images.
        targeted: ``targets``, or the result of ``target_map``, are the attacker's labels.
        target_map: Map from the true targets to the wanted ones.
        random_start: Start from U(−ε, ε) instead of from zero.
        ignore_index: Label of ignored pixels; None if no pixel is ignored.
        seed: Seed of the random start.

    Raises:
        ValueError: ``eps``, ``step_size`` or ``tile_size`` out of range, ``epochs`` below 1, or a target map without
            ``targeted``.
    """

    def __init__(
        self,
        eps: float | str = "10/255",
        step_size: float | str = "1/255",
        epochs: int = 60,
        loss: AttackLoss | None = None,
        tile_size: tuple[int, int] | None = None,
        targeted: bool = False,
        target_map: TargetMap | None = None,
        random_start: bool = False,
        ignore_index: int | None = IGNORE_INDEX,
        seed: int = 0,
    ):
        self.threat: ThreatModel = unit_free_threat(eps)
        self.step_size = SignStep(step_size).step_size
        if epochs < 1:
            raise ValueError(f"epochs = {epochs}: a fit takes at least one pass over the data.")
        if tile_size is not None and (len(tile_size) != 2 or min(tile_size) < 1):
            raise ValueError(f"tile_size = {tile_size}: give height and width in pixels.")
        if target_map is not None and not targeted:
            raise ValueError("targeted = False with a target map: set targeted to true, so that the fit aims at it.")
        self.epochs = epochs
        self.loss = loss or CrossEntropy()
        self.tile_size = tile_size
        self.targeted = targeted
        self.target_map = target_map
        self.random_start = random_start
        self.ignore_index = checked_ignore_index(ignore_index)
        self.seed = seed

    def fit(
        self,
        model: Model,
        batches: Iterable[Sequence[Any]],
        start: UniversalDelta | None = None,
        on_step: OnUniversalStep | None = None,
        device: torch.device | str | None = None,
        search: Search | None = None,
    ) -> UniversalDelta:
        """Fit the perturbation; the model and the global random state are not changed.

        Args:
            model: Maps B×3×H×W images in [0, 1] to B×C×H×W logits; normalisation happens inside. Attacked in eval
                mode.
            batches: Iterable of (images, targets, …) that can be iterated again, such as a DataLoader or a list.
                Shuffling and augmentation make epochs differ.
            start: Perturbation to continue from: two fits of n epochs are one of 2n (for a loss without a schedule).
            on_step: Called after each batch.
            device: Device of the model, to which batches are moved; by default they stay on their own.
            search: Precision of the forwards and gradients.

        Raises:
            AttackError: Batches that do not fit together or cannot be iterated again, a model that cannot be
                differentiated.
            ValueError: ``start`` is larger than ε or not of the wanted size.
        """
        with attack_mode(model, search=search) as attacked:
            delta: Tensor | None = None
            if start is not None:
                self._check_start(start)
                delta = start.delta.detach().clone()
            for epoch in track(range(self.epochs), "fitting: epoch"):
                delta, slope = self._epoch(attacked, batches, delta, epoch, on_step, device)
                refuse_non_finite(slope.abs().sum())
                moved = delta + (-1 if self.targeted else 1) * float(self.step_size) * slope.sign()
                delta = ball(self.threat, delta[None]).project(moved[None])[0]
        assert delta is not None
        return UniversalDelta(
            delta.cpu(),
            self.threat,
            str(self.step_size),
            self.epochs + (0 if start is None else start.epochs),
            repr(self.loss),
            self.targeted,
            None if self.target_map is None else repr(self.target_map),
            self.seed,
        )

    def _epoch(
        self,
        model: Model,
        batches: Iterable[Sequence[Any]],
        delta: Tensor | None,
        epoch: int,
        on_step: OnUniversalStep | None,
        device: torch.device | str | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the perturbation, initialised at the first batch if needed, and its mean gradient."""
        slope: Tensor | None = None
        count = 0
        for number, (images, targets, *_) in enumerate(track(batches, "batch"), start=1):
            # What is no tensor is refused below.
            moved = (each.to(device) if isinstance(each, Tensor) else each for each in (images, targets))
            images, targets, highest = self._prepare(*moved)
            delta = self._start(images) if delta is None else _at_least_as_wide(delta, images)
            slope = torch.zeros_like(delta) if slope is None else slope
            check_fit(delta, images, self.tile_size is not None)
            rows = positions((targets != IGNORED).flatten(1).any(1))
            if not len(rows):
                continue
            if len(rows) < len(images):
                here = on_device(rows, images.device)
                images, targets = images[here], targets[here]
            victim = Victim(model, len(images), dtype=images.dtype)
            if epoch == 0:
                victim.require(highest, functools.partial(unknown_class, highest))
            loss, grad = self._gradient(victim, images, targets, delta, epoch)
            slope, count = slope + grad, count + len(images)
            if on_step is not None:
                on_step(UniversalStep(epoch + 1, self.epochs, number, count, loss, delta))
        if delta is None or slope is None or not count:
            raise AttackError(
                f"the batches gave no image with a valid pixel in epoch {epoch + 1}: give something that can be "
                "iterated once per epoch, such as a DataLoader or a list, not an iterator that is used up."
            )
        return delta, slope / count

    def _prepare(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, int]:
        """Return checked images, the targets of the fit, and the largest of these."""
        entry = checked_entry(images, targets, self.ignore_index, wanted_of=self._wanted)
        if entry.aims is None:
            return entry.images, entry.targets, entry.highest
        return entry.images, entry.aims.targets, entry.aims.highest

    def _wanted(self, targets: Tensor) -> Tensor | None:
        return None if self.target_map is None else self.target_map(targets, ignore_index=IGNORED)

    def _start(self, images: Tensor) -> Tensor:
        height, width = self.tile_size or images.shape[-2:]
        dtype = torch.promote_types(images.dtype, torch.float32)
        zero = torch.zeros(1, images.shape[1], height, width, dtype=dtype, device=images.device)
        if not self.random_start:
            return zero[0]
        # Drawn on the CPU: the same numbers on any device.
        noise = NoiseSource.from_generator(torch.Generator().manual_seed(self.seed), torch.device("cpu"))
        return ball(self.threat, zero.cpu()).sample(noise)[0].to(images.device)

    def _gradient(
        self, victim: Victim, images: Tensor, targets: Tensor, delta: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        """Compute each image's mean loss over its valid pixels, B values, and their sum's gradient at ``delta``."""
        seen = leaf(_perturbed(images, delta))
        logits = victim(seen)
        loss = self.loss(logits, targets, epoch / self.epochs, self.targeted)
        pixels = (targets != IGNORED).flatten(1).sum(1)
        # Gradients of a mean over the pixels would underflow in a half-precision model.
        most = pixels.max()
        grad = input_gradient((loss * (most / pixels)).sum(), seen)
        return loss.detach() / pixels, folded(grad.to(delta.dtype).sum(0), *delta.shape[-2:]) / most

    def _check_start(self, start: UniversalDelta) -> None:
        largest = float(start.delta.double().abs().max())
        if largest > float(self.threat.eps):
            raise ValueError(f"start reaches {largest:.6g}, beyond eps = {self.threat.eps}: continue with its own eps.")
        if self.tile_size is not None and tuple(start.delta.shape[-2:]) != tuple(self.tile_size):
            raise ValueError(
                f"tile_size = {self.tile_size}, but start has {tuple(start.delta.shape[-2:])}: continue with its size."
            )


def _perturbed(images: Tensor, delta: Tensor) -> Tensor:
    """Return the model's input, images plus ``delta``, clipped; the sum is made in the dtype of ``delta``."""
    return (images.to(delta.dtype) + tiled(delta, *images.shape[-2:])).clamp(0, 1).to(images.dtype)


def _at_least_as_wide(delta: Tensor, images: Tensor) -> Tensor:
    return delta.to(images.device, torch.promote_types(delta.dtype, images.dtype))


_FITTED = ("step_size", "epochs", "loss", "targeted", "target_map", "seed")


class Universal(Attack):
    """One fitted perturbation, added to every image and clipped to [0, 1], without any query of the model.

    Args:
        path: File written by :class:`~robustseg.attacks.UniversalDelta`.
        eps: Radius to which the perturbation is clipped, at most that of its fit, its default, in units of the [0, 1]
            pixel range.
        tile: Repeat the perturbation from the upper left corner over images of another size, for perturbations fitted
            with ``tile_size``.
        **options: ``ignore_index``, as for :class:`~robustseg.attacks.Attack`.

    Raises:
        ValueError: The file holds no such perturbation, or ``eps`` is larger than its own.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        eps: float | str | None = None,
        tile: bool = False,
        **options: Any,
    ):
        self.universal = UniversalDelta.load(path)
        own = self.universal.threat.eps
        self.threat: ThreatModel = ThreatModel(str(own) if eps is None else eps, "linf")
        if self.threat.eps > own:
            raise ValueError(f"eps = {eps} is larger than the {own} of {path}: fit a perturbation for it.")
        super().__init__(targeted=False, seed=self.universal.seed, **options)
        self.path = str(path)
        self.tile = tile

    def perturb(  # noqa: D102
        self, victim: Victim, images: Tensor, targets: Tensor, noise: NoiseSource, on_step: OnStep | None
    ) -> Tensor:
        delta = self.universal.over(images, self.tile)
        # The allowed set rounds towards the image; the sum itself is made in float32 at least.
        moved = images.to(delta.dtype) + delta
        return self.threat.around(images).project(moved.to(images.dtype))

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {
            "attack": type(self).__name__,
            "eps": str(self.threat.eps),
            "norm": self.threat.norm,
            "targeted": self.targeted,
            "path": self.path,
            "tile": self.tile,
            # Settings of the file, with loss and target map as texts.
            "fitted": {
                **{name: plain_setting(getattr(self.universal, name)) for name in _FITTED},
                "eps": str(self.universal.threat.eps),
            },
        }
