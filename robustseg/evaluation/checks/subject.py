"""The examined model together with the probe images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from robustseg.attacks import Attack, AttackError, NoiseSource, ThreatModel
from robustseg.attacks.checks import check_logits
from robustseg.attacks.guard import Model
from robustseg.attacks.losses.base import IGNORED, cross_entropy
from robustseg.attacks.victim import Victim
from robustseg.metrics import class_counts, confusion_matrix, pixel_acc_from_counts

Evidence = dict[str, Any]
"""Result of an experiment: numbers, strings, None, and lists and dicts of these."""


class Subject:
    """A model that is already in attack mode, and probe images with at least one valid pixel each.

    Any exception of the model becomes an :class:`~robustseg.attacks.AttackError`, which experiments record, except for
    a GPU that is out of memory. Forwards and backwards are counted in images.

    Args:
        model: The model, prepared by :func:`~robustseg.attacks.attack_mode`.
        ids: N sample ids.
        images: N×3×H×W in [0, 1].
        targets: N×H×W, :data:`~robustseg.attacks.losses.base.IGNORED` where ignored.
        threat: Threat model of the evaluation.
        num_classes: Number of classes C.
        seed: Seed of the evaluation.
        batch_size: Number of images in one forward.
        on_forward: Called after each forward, with its number of images.
        num_scored: Number of classes that are scored, the first ones; None for all.
        count_void: Count ignored pixels as the last class.
    """

    def __init__(
        self,
        model: Model,
        ids: Sequence[str],
        images: Tensor,
        targets: Tensor,
        threat: ThreatModel,
        num_classes: int,
        seed: int,
        batch_size: int,
        on_forward: Callable[[int], None] | None = None,
        num_scored: int | None = None,
        count_void: bool = False,
    ):
        self._num_scored = num_scored
        self._count_void = count_void
        self._on_forward = on_forward
        self._model = model
        self.ids = list(ids)
        self.images = images
        self.targets = targets
        self.threat = threat
        self.num_classes = num_classes
        self.seed = seed
        self.batch_size = batch_size
        self.forwards = 0
        self.backwards = 0

    @property
    def valid(self) -> Tensor:
        """Valid pixels, N×H×W bool."""
        return self.targets != IGNORED

    def rows(self, batch_size: int | None = None) -> Iterable[Tensor]:
        """Return the indices of the images, batch by batch."""
        indices = torch.arange(len(self.images), device=self.images.device)
        size = batch_size or self.batch_size
        return [indices[start : start + size] for start in range(0, len(indices), size)]

    def answer(self, images: Tensor) -> Tensor:
        """Call the model on any images, and count it; with a graph if autograd is on.

        Raises:
            AttackError: The model raised an exception.
        """
        return self._counted(self._model(images), len(images))

    def differentiable(self, images: Tensor) -> Tensor:
        """Call the model as :meth:`answer`; if it works in half precision, that holds its gradients.

        Raises:
            AttackError: The model raised an exception, or its output is no logits that have a gradient.
        """
        return self._counted(Victim(self._model, len(images))(images), len(images))

    def _counted(self, logits: Tensor, images: int) -> Tensor:
        self.forwards += images
        if self._on_forward is not None:
            self._on_forward(images)
        if isinstance(logits, Tensor) and logits.requires_grad:
            logits.register_hook(lambda _: self._count_backward(images))  # type: ignore[no-untyped-call]
        return logits

    def _count_backward(self, images: int) -> None:
        self.backwards += images

    def rescaled_answer(self, images: Tensor) -> Tensor:
        """Call the model and divide each image's logits by the median of its margins, a constant for the gradient.

        Predictions stay the same, but the softmax does not saturate, also for very large logits.
        """
        logits = self.answer(images)
        if not isinstance(logits, Tensor) or logits.ndim != 4 or logits.shape[1] < 2:
            return logits
        scale = median_margin(logits).view(-1, 1, 1, 1)
        return logits / torch.where(scale > 0, scale, 1)

    def raw_logits(self, images: Tensor, batch_size: int | None = None) -> Tensor:
        """Compute the logits of versions of all images, N×C×H×W without a graph, finite or not.

        Raises:
            AttackError: The model raised an exception, or its output has another shape.
        """
        parts = []
        with torch.no_grad():
            for rows in self.rows(batch_size):
                logits = self.answer(images[rows])
                expected = (len(rows), self.num_classes, *images.shape[-2:])
                if not isinstance(logits, Tensor) or logits.shape != expected:
                    given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                    raise AttackError(f"the model returned {given}, not logits of shape {expected}.")
                parts.append(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        return torch.cat(parts)

    def logits(self, images: Tensor) -> Tensor:
        """Compute :meth:`raw_logits` and refuse those that are not finite.

        Raises:
            AttackError: The model raised an exception, or its output has another shape or is not finite.
        """
        return check_logits(self.raw_logits(images), images, self.targets, differentiable=False)

    def losses(self, images: Tensor) -> Tensor:
        """Compute the cross-entropy summed over each image's valid pixels, N float64."""
        return cross_entropy(self.logits(images), self.targets).flatten(1).sum(1, dtype=torch.float64)

    def counts(self, images: Tensor) -> Tensor:
        """Compute the class counts of each image, N×3×C int64 on the CPU."""
        predictions = self.logits(images).argmax(1)
        matrices = confusion_matrix(predictions, self.targets, self.num_classes, IGNORED, self._count_void)
        return class_counts(matrices, self._num_scored).cpu()

    def accuracies(self, images: Tensor) -> Tensor:
        """Compute the pixel accuracy of each image, N float64 on the CPU."""
        return pixel_acc_from_counts(self.counts(images))

    @cached_property
    def clean(self) -> Tensor:
        """Pixel accuracy of each image without attack, N float64 on the CPU."""
        return self.accuracies(self.images)

    def attacked(self, attack: Attack, rescaled: bool = False) -> Tensor:
        """Compute adversarial images N×3×H×W, with the noise that the evaluation gives these samples.

        Args:
            attack: The attack; in its targets, ignored pixels have its own ignore index.
            rescaled: Attack the logits of :meth:`rescaled_answer`.
        """
        model = self.rescaled_answer if rescaled else self.answer
        label = IGNORED if attack.ignore_index is None else attack.ignore_index
        targets = self.targets.masked_fill(~self.valid, label)
        parts = []
        for rows in self.rows():
            ids = [self.ids[row] for row in rows.tolist()]
            noise = NoiseSource.for_samples((self.seed, attack.seed), ids, self.images.device)
            parts.append(attack(model, self.images[rows], targets[rows], generator=noise))
        return torch.cat(parts)


def median_margin(logits: Tensor) -> Tensor:
    """Compute the median margin of each image's pixels, B values without a graph.

    A pixel's margin is its largest logit minus the second largest.
    """
    top = logits.detach().topk(2, dim=1).values
    return (top[:, 0] - top[:, 1]).flatten(1).median(1).values


def guarded(experiment: Callable[[], Evidence]) -> Evidence:
    """Run an experiment; if it fails, return the error as its evidence."""
    try:
        return experiment()
    except torch.cuda.OutOfMemoryError:
        raise
    # RuntimeError: autograd raises it for a broken graph, and AttackError is one.
    except RuntimeError as error:
        return {"error": str(error)}


def number(value: Tensor | float) -> float | None:
    """Round a number to six significant digits for the card; None if it is not finite."""
    plain = float(value)
    return float(f"{plain:.6g}") if abs(plain) < float("inf") else None


def spread(values: Tensor) -> dict[str, float | None]:
    """Compute the smallest, median and largest of N values."""
    values = values.double()
    return {"min": number(values.min()), "median": number(values.quantile(0.5)), "max": number(values.max())}


def signs(images: Tensor, seed: int, draws: int = 1) -> Iterator[Tensor]:
    """Draw random ±1 of the shape of ``images``, the same for a seed on any device."""
    noise = NoiseSource(seed, None, images.device)
    for _ in range(draws):
        yield 1 - 2 * (noise.uniform(images) < 0.5).to(images.dtype)
