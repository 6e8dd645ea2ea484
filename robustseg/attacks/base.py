"""The interface of every attack and the checks that every attack makes on entry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustseg.attacks.gradients import NO_GRADIENT
from robustseg.attacks.guard import AttackError, AttackMode, Model, NoGradientError, NonFiniteError, attack_mode
from robustseg.attacks.losses.base import IGNORED, ClassPixels
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.settings import Configured
from robustseg.attacks.threat import ThreatModel
from robustseg.attacks.victim import Victim
from robustseg.types import IGNORE_INDEX


class AttackStep(NamedTuple):
    """State of one step, shown to an observer. Tensors are detached; reading them may wait for the device."""

    step: int
    """1..steps, counted within a restart."""
    steps: int
    """Steps of one restart."""
    restart: int
    """0..restarts−1."""
    images_adv: Tensor
    """The iterate, B×3×H×W."""
    logits: Tensor
    """B×C×h×w, the logits that were differentiated: those of the iterate, or of the input that a transform or a
    look-ahead made of it."""
    targets: Tensor
    """B×h×w, targets at the logits' size, ignored pixels as :data:`~robustseg.attacks.losses.base.IGNORED`."""
    loss: Tensor
    """B values."""
    rows: Tensor
    """B indices of these images in the call's batch; finished images may have left."""


OnStep = Callable[[AttackStep], None]


class AttackResult(NamedTuple):
    """Adversarial images and their cost."""

    images_adv: Tensor
    """B×3×H×W."""
    forwards: Tensor
    """Forward passes of each image, B counts on the CPU."""
    backwards: Tensor
    """Input gradients of each image, B counts on the CPU."""
    attacked: Tensor
    """B bool on the CPU: False for an image without any valid pixel, which comes back unchanged."""
    trace: Tensor | None = None
    """Record of each step if the attack was traced, see :class:`~robustseg.evaluation.trace.Traced`; otherwise None."""


class Attack(Configured, ABC):
    """Base of all attacks: ``attack(model, images, targets) -> images_adv``.

    Attacks hold hyperparameters only. The model is an argument of the call and is not changed: gradients, buffers,
    training flags, ``requires_grad`` and the global random state are restored, also after an exception. Attacks work
    inside ``torch.no_grad()`` and ``torch.inference_mode()``.

    Args:
        targeted: The ``targets`` of the call are the labels that the attacker wants the model to predict.
        ignore_index: Label of ignored pixels.
        seed: Seed of the noise where the call gives no generator; training and evaluation combine it with the
            run's seed.
    """

    threat: ThreatModel | None = None
    """Allowed perturbations; None if the perturbation may have any size."""

    def __init__(self, *, targeted: bool = False, ignore_index: int = IGNORE_INDEX, seed: int = 0):
        self.targeted = targeted
        self.ignore_index = ignore_index
        self.seed = seed

    def __call__(
        self,
        model: Model,
        images: Tensor,
        targets: Tensor,
        *,
        generator: torch.Generator | NoiseSource | None = None,
        on_step: OnStep | None = None,
        mode: AttackMode = "eval",
    ) -> Tensor:
        """Perturb a batch of images.

        Args:
            model: Maps B×3×H×W images in [0, 1] to B×C×H×W logits; normalisation happens inside.
            images: B×3×H×W floating point in [0, 1].
            targets: B×H×W integer class ids, or the ignore index.
            generator: Source of the start noise. A :class:`NoiseSource` with one generator per image makes each
                image's result independent of its batch. By default a fresh one from the attack's seed.
            on_step: Called after each gradient.
            mode: Mode of the model during the attack, see :func:`~robustseg.attacks.guard.attack_mode`.

        Returns:
            B×3×H×W, dtype and device of ``images``, detached, within the threat model; never ``images`` itself. An
            image without any valid pixel is returned unchanged.

        Raises:
            AttackError: The tensors do not fit together, or the model's output cannot be differentiated.
        """
        return self.run(model, images, targets, generator=generator, on_step=on_step, mode=mode).images_adv

    def run(
        self,
        model: Model,
        images: Tensor,
        targets: Tensor,
        *,
        generator: torch.Generator | NoiseSource | None = None,
        on_step: OnStep | None = None,
        mode: AttackMode = "eval",
    ) -> AttackResult:
        """Perturb a batch and return the images with their cost; arguments and errors as for the call.

        Returns:
            The adversarial images and the forwards and gradients of each image.
        """
        with attack_mode(model, mode) as attacked:
            # Inference tensors cannot take part in autograd; their clones made here can.
            images = images.detach().clone()
            targets = targets.detach().clone()
            if not targets.is_floating_point():
                # In uint8, an ignore index of −1 would equal 255.
                targets = targets.long()
            check_batch(images, targets, self.ignore_index)
            targets = targets.masked_fill(targets == self.ignore_index, IGNORED)
            noise = self._noise(generator, images.device)
            victim = Victim(attacked, len(images))
            valid = (targets != IGNORED).flatten(1).any(1)
            if bool(valid.all()):
                images_adv = self.perturb(victim, images, targets, noise, on_step).detach()
            else:
                images_adv = self._perturb_some(valid.nonzero()[:, 0], victim, images, targets, noise, on_step)
            victim.refuse_non_finite()
            return AttackResult(images_adv, victim.forwards, victim.backwards, valid.cpu())

    def _perturb_some(
        self,
        rows: Tensor,
        victim: Victim,
        images: Tensor,
        targets: Tensor,
        noise: NoiseSource,
        on_step: OnStep | None,
    ) -> Tensor:
        """Attack the images at ``rows`` only."""
        if not len(rows):
            return images
        observer = None if on_step is None else shift_rows(on_step, rows)
        part = self.perturb(victim.select(rows), images[rows], targets[rows], noise.select(rows, len(images)), observer)
        return images.index_copy(0, rows, part.detach())

    def _noise(self, generator: torch.Generator | NoiseSource | None, device: torch.device) -> NoiseSource:
        if isinstance(generator, NoiseSource):
            return generator
        return NoiseSource.from_generator(generator or torch.Generator().manual_seed(self.seed), device)

    @abstractmethod
    def perturb(
        self, victim: Victim, images: Tensor, targets: Tensor, noise: NoiseSource, on_step: OnStep | None
    ) -> Tensor:
        """Run the attack itself, with autograd on, on a prepared model and on checked copies of the tensors.

        Args:
            victim: The model, which can be differentiated with respect to its input.
            images: B×3×H×W in [0, 1].
            targets: B×H×W, :data:`~robustseg.attacks.losses.base.IGNORED` where ignored; every image has a valid
                pixel.
            noise: The only source of randomness.
            on_step: Called after each gradient, if given.
        """

    def for_data(self, class_pixels: ClassPixels) -> Attack:
        """Return the attack with the facts about a data set that its settings left open; ``self`` is not changed.

        Args:
            class_pixels: Function that counts the pixels of each class in the training set, for balanced losses.
        """
        return self

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return every hyperparameter as nested plain data, for the record of a result.

        ``attack`` is the class's name. Parts are :func:`~robustseg.attacks.describe.describe_part`; attacks within the
        attack are descriptions under ``inner`` (one) or ``members`` (several).
        """


def shift_rows(on_step: OnStep, rows: Tensor) -> OnStep:
    """Return an observer for part of a batch that gives ``on_step`` the rows of the whole batch."""
    return lambda step: on_step(step._replace(rows=rows[step.rows]))


def check_batch(images: Tensor, targets: Tensor, ignore_index: int) -> None:
    """Refuse tensors that no attack accepts, before the first forward.

    Raises:
        AttackError: Wrong shapes, dtypes or pixel range, negative labels that are not the ignore index.
    """
    if images.ndim != 4 or not images.is_floating_point() or not len(images):
        raise AttackError(
            f"images must be B×3×H×W floating point in [0, 1], not {images.dtype} of shape {tuple(images.shape)}."
        )
    if targets.is_floating_point() or targets.shape != (len(images), *images.shape[-2:]):
        raise AttackError(
            f"targets must be B×H×W integers that fit images of shape {tuple(images.shape)}, "
            f"not {targets.dtype} of shape {tuple(targets.shape)}."
        )
    lowest, highest = (float(value) for value in torch.aminmax(images))
    if not (lowest >= 0 and highest <= 1):
        raise AttackError(
            f"images have values in [{lowest:g}, {highest:g}] but attacks work in [0, 1]: divide 8-bit images by 255 "
            "and put the normalisation into the model (SegmentationModel does)."
        )
    negative = targets[(targets < 0) & (targets != ignore_index)]
    if len(negative):
        raise AttackError(
            f"targets hold {int(negative[0])}, which is neither a class nor ignore_index = {ignore_index}: "
            "give the attack the data's ignore_index."
        )


def check_logits(logits: object, images: Tensor, targets: Tensor, differentiable: bool = True) -> Tensor:
    """Refuse a model output that no attack accepts. The check waits for the device: call it on the first forward only.

    Args:
        logits: Output of the model.
        images: B×3×H×W, input of the model.
        targets: B×H×W, of any size; with targets B×1×N the logits may be B×C×1×N, those of several views of the
            images side by side.
        differentiable: The attack needs the gradient to the input.

    Raises:
        AttackError: Not a tensor B×C×H×W of the input's size, values that are not finite, a label beyond C, or no
            gradient to the input.
    """
    if not isinstance(logits, Tensor):
        raise AttackError(
            f"the model returned a {type(logits).__name__}, not a tensor of logits: wrap it so that it returns B×C×H×W."
        )
    sizes = (images.shape[-2:], targets.shape[-2:] if targets.shape[-2] == 1 else None)
    if logits.ndim != 4 or logits.shape[0] != len(images) or logits.shape[-2:] not in sizes:
        raise AttackError(
            f"the model returned {tuple(logits.shape)} for images {tuple(images.shape)}: logits must be B×C×H×W at "
            "the size of the images (SegmentationModel upsamples them)."
        )
    if differentiable and not logits.requires_grad:
        raise NoGradientError(NO_GRADIENT)
    if not bool(torch.isfinite(logits.detach()).all()):
        raise NonFiniteError(
            "the model returned logits that are not finite: it overflows or divides by zero on these images; run it in "
            "float32 and look for non-finite weights."
        )
    if logits.shape[1] < 2:
        raise AttackError(
            "the model has one output channel, by which no pixel can be classified: for the logit u of a model of two "
            "classes return torch.cat([torch.zeros_like(u), u], 1)."
        )
    highest = int(targets.max())
    if highest >= logits.shape[1]:
        raise AttackError(
            f"targets hold class {highest} but the model has {logits.shape[1]} classes: give the attack the data's "
            "ignore_index, or use a model of these classes."
        )
    return logits
