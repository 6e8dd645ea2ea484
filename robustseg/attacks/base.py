"""The interface of every attack and the checks that every attack makes on entry."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from robustseg.attacks.checks import UNIT, check_form, unknown_class
from robustseg.attacks.entry import checked_entry
from robustseg.attacks.errors import AttackError
from robustseg.attacks.guard import Guarded, Model, attack_mode
from robustseg.attacks.losses.base import ClassPixels, correct_pixels
from robustseg.attacks.noise import NoiseSource
from robustseg.attacks.precision import Search
from robustseg.attacks.settings import Configured
from robustseg.attacks.state import AttackMode
from robustseg.attacks.threat import ThreatModel, box_excess, per_image
from robustseg.attacks.victim import Victim
from robustseg.devices import on_device, read
from robustseg.types import IGNORE_INDEX, checked_ignore_index


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
    look-ahead made of it. Maybe empty for an observer of :func:`reads_no_logits`."""
    targets: Tensor
    """B×h×w, targets at the logits' size, ignored pixels as :data:`~robustseg.attacks.losses.base.IGNORED`."""
    loss: Tensor
    """B values."""
    rows: Tensor
    """B indices of these images in the call's batch; finished images may have left."""


OnStep = Callable[[AttackStep], None]


Observer = TypeVar("Observer", bound=Callable[..., None])


def reads_no_logits(on_step: Observer) -> Observer:
    """Mark an observer of steps, a function or a method, for which no logits need to stay in memory."""
    on_step.reads_logits = False  # type: ignore[attr-defined]
    return on_step


def reads_logits(on_step: OnStep) -> bool:
    """Return whether an observer may read the logits of a step."""
    return bool(getattr(on_step, "reads_logits", True))


def shown_logits(on_step: OnStep | None, logits: Tensor) -> Tensor | None:
    """Return what an observer is given as the logits; an empty tensor if it does not read them, None without one."""
    if on_step is None:
        return None
    return logits.detach() if reads_logits(on_step) else logits.new_empty(0)


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
        ignore_index: Label of ignored pixels; None if no pixel is ignored.
        seed: Seed of the noise where the call gives no generator; training and evaluation combine it with the
            run's seed.

    Raises:
        ValueError: An argument of another type than annotated, or a negative ``seed``.
    """

    threat: ThreatModel | None = None
    """Allowed perturbations; None if the perturbation may have any size."""

    def __init__(self, *, targeted: bool = False, ignore_index: int | None = IGNORE_INDEX, seed: int = 0):
        self.targeted = targeted
        self.ignore_index = checked_ignore_index(ignore_index)
        self.seed = int(seed)

    def __call__(
        self,
        model: Model,
        images: Tensor,
        targets: Tensor,
        *,
        generator: torch.Generator | NoiseSource | None = None,
        on_step: OnStep | None = None,
        mode: AttackMode = "eval",
        search: Search | None = None,
    ) -> Tensor:
        """Perturb a batch of images.

        Args:
            model: Maps B×3×H×W images in [0, 1] to B×C×H×W logits; normalisation happens inside.
            images: B×3×H×W floating point in [0, 1].
            targets: B×H×W integer class ids, or the ignore index.
            generator: Source of the start noise. A :class:`NoiseSource` that is made for sample ids makes each
                image's result independent of its batch. By default a fresh one from the attack's seed.
            on_step: Called after each gradient.
            mode: Mode of the model during the attack, see :func:`~robustseg.attacks.guard.attack_mode`.
            search: Precision to search in. Forwards in float32 then judge what is found: no result leaves more pixels
                correct than the clean image (fewer that show the target, if targeted), which comes back in its place.
                Images in float32.

        Returns:
            B×3×H×W, dtype and device of ``images``, detached, within the threat model; never ``images`` itself. An
            image without any valid pixel is returned unchanged.

        Raises:
            AttackError: The tensors do not fit together, the model's output cannot be differentiated or differs in
                form from forward to forward, or the attack itself leaves its threat model.
        """
        options: dict[str, Any] = {"generator": generator, "on_step": on_step, "mode": mode, "search": search}
        return self.run(model, images, targets, **options).images_adv

    def run(
        self,
        model: Model,
        images: Tensor,
        targets: Tensor,
        *,
        generator: torch.Generator | NoiseSource | None = None,
        on_step: OnStep | None = None,
        mode: AttackMode = "eval",
        search: Search | None = None,
    ) -> AttackResult:
        """Perturb a batch and return the images with their cost; arguments and errors as for the call.

        Returns:
            The adversarial images and the forwards and gradients of each image.
        """
        with attack_mode(model, mode, search) as attacked:
            bounds = UNIT if self.threat is None else self.threat.bounds
            entry = checked_entry(images, targets, self.ignore_index, bounds, self.own_targets)
            images, targets, valid, highest = entry[:4]
            noise = self._noise(generator, images.device)
            aims = None if entry.aims is None else (self, entry.aims)
            victim = Victim(attacked, len(images), aims, images.dtype)
            victim.require(highest, functools.partial(unknown_class, highest))
            if bool(valid.all()):
                # A copy: the budget is asserted around images that no attack could change.
                images_adv = self.perturb(victim, images.clone(), targets, noise, on_step)
                images_adv = check_form(images_adv, images, type(self).__name__)
                images_adv = self.verified(victim, images, targets, images_adv)
            else:
                images_adv = self._perturb_some(valid.nonzero()[:, 0], victim, images, targets, noise, on_step)
            images_adv = self._within_budget(images_adv, images, victim, attacked)
            return AttackResult(images_adv, victim.forwards, victim.backwards, valid)

    def own_targets(self, targets: Tensor) -> Tensor | None:
        """Return the targets that the attack itself makes of B×H×W ones, IGNORED where ignored; None if it does not."""
        return None

    def _within_budget(self, images_adv: Tensor, images: Tensor, victim: Victim, model: Guarded) -> Tensor:
        """Return the result within the threat model, and read all that is known at the end; waits for the device once.

        A result of this package's attacks is there already. One that is beyond by a rounding of its dtype, as that of
        ``images + eps``, is projected; one that is farther away is an error.

        Raises:
            NonFiniteError: Some gradients or logits of the model were not finite.
            AttackError: The images leave the ball or the box, or are not finite.
        """
        allowed = None if self.threat is None else self.threat.around(images)
        excess = box_excess(images_adv, UNIT) if allowed is None else allowed.excess(images_adv)
        *doubts, changed, beyond = read(*victim.doubts(images.device), model.changed(images.device), excess)
        model.settle(images.device, bool(changed))
        victim.refuse_non_finite(*doubts)
        if beyond <= 0:
            return images_adv
        if beyond <= torch.finfo(images.dtype).eps:
            return images_adv.clamp(*UNIT) if allowed is None else allowed.finish(allowed.project(images_adv))
        box = "[0, 1]" if self.threat is None else str(self.threat)
        remedy = "clamp(0, 1)" if self.threat is None else "self.threat.around(images).project(…)"
        raise AttackError(
            f"{type(self).__name__} returned images that leave {box} by {beyond:.3g}: this is an error of the attack, "
            f"whose perturb() must return finite images within its threat model, {remedy} for example."
        )

    def _perturb_some(
        self,
        rows: Tensor,
        victim: Victim,
        images: Tensor,
        targets: Tensor,
        noise: NoiseSource,
        on_step: OnStep | None,
    ) -> Tensor:
        """Attack the images at ``rows``, indices on the CPU, only."""
        if not len(rows):
            return images
        here = on_device(rows, images.device)
        observer = None if on_step is None else shift_rows(on_step, here)
        some, own, wanted = victim.select(rows), images[here], targets[here]
        part = self.perturb(some, own, wanted, noise.select(rows, len(images)), observer)
        part = check_form(part, own, type(self).__name__)
        return images.index_copy(0, here, self.verified(some, own, wanted, part))

    def verified(self, victim: Victim, images: Tensor, targets: Tensor, images_adv: Tensor) -> Tensor:
        """Return the results of a search, with the clean image for one that is weaker by the verdict of the model.

        Arguments as for :meth:`perturb`. Costs two forwards, and none if no forward was in a search's own precision.
        """
        if not victim.searched:
            return images_adv
        clean, found = (
            correct_pixels(victim.verdict(each), targets).flatten(1).sum(1) for each in (images, images_adv)
        )
        worse = found < clean if self.targeted else found > clean
        return torch.where(per_image(worse, images), images, images_adv)

    def _noise(self, generator: torch.Generator | NoiseSource | None, device: torch.device) -> NoiseSource:
        if isinstance(generator, NoiseSource):
            return generator
        if generator is not None and not isinstance(generator, torch.Generator):
            raise AttackError(f"generator = {generator!r}: give torch.Generator().manual_seed(…), or None.")
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

    def shifted(step: AttackStep) -> None:
        on_step(step._replace(rows=rows[step.rows]))

    return shifted if reads_logits(on_step) else reads_no_logits(shifted)
