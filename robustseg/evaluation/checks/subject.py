"""The model under examination together with the few images that it is examined on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from robustseg.attacks import Attack, AttackError, NoiseSource, ThreatModel
from robustseg.attacks.base import check_logits
from robustseg.attacks.guard import Model
from robustseg.attacks.losses.base import IGNORED, cross_entropy
from robustseg.metrics import class_counts, confusion_matrix, pixel_acc_from_counts

Evidence = dict[str, Any]
"""What an experiment found: numbers, strings, None, and lists and dicts of these."""


class Subject:
    """A model, in attack mode already, and probe images with at least one valid pixel each.

    Whatever the model raises becomes an :class:`~robustseg.attacks.AttackError`, which experiments record; only a
    device that is out of memory is no finding. Forwards and backwards are counted in images.

    Args:
        model: Prepared by :func:`~robustseg.attacks.attack_mode`.
        ids: N sample ids.
        images: N×3×H×W in [0, 1].
        targets: N×H×W, :data:`~robustseg.attacks.losses.base.IGNORED` where ignored.
        threat: What the adversary of the evaluation may do.
        num_classes: C.
        seed: Seed of the evaluation.
        batch_size: Images that are shown to the model at a time.
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
    ):
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
        """N×H×W bool."""
        return self.targets != IGNORED

    def rows(self, batch_size: int | None = None) -> Iterable[Tensor]:
        """Indices of the images, one batch after the other."""
        indices = torch.arange(len(self.images), device=self.images.device)
        size = batch_size or self.batch_size
        return [indices[start : start + size] for start in range(0, len(indices), size)]

    def answer(self, images: Tensor) -> Tensor:
        """The model's answer to any images, counted; with a graph where autograd is on."""
        try:
            logits = self._model(images)
        except (AttackError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:
            raise AttackError(f"the model raised {type(error).__name__}: {error}") from error
        self.forwards += len(images)
        if isinstance(logits, Tensor) and logits.requires_grad:
            logits.register_hook(lambda _: self._count_backward(len(images)))  # type: ignore[no-untyped-call]
        return logits

    def _count_backward(self, images: int) -> None:
        self.backwards += images

    def rescaled_answer(self, images: Tensor) -> Tensor:
        """As :meth:`answer`, each image's logits divided by the median of its margins, a constant for the gradient.

        Predictions are the same, but no softmax saturates, however large the model's logits are.
        """
        logits = self.answer(images)
        if not isinstance(logits, Tensor) or logits.ndim != 4 or logits.shape[1] < 2:
            return logits
        scale = median_margin(logits).view(-1, 1, 1, 1)
        return logits / torch.where(scale > 0, scale, 1)

    def raw_logits(self, images: Tensor, batch_size: int | None = None) -> Tensor:
        """The answers to versions of all images, N×C×H×W without a graph, finite or not.

        Raises:
            AttackError: The model raised, or its answers are not of that shape.
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
        """As :meth:`raw_logits`, refusing answers that are not finite."""
        return check_logits(self.raw_logits(images), images, self.targets, differentiable=False)

    def losses(self, images: Tensor) -> Tensor:
        """Cross-entropy summed over each image's valid pixels, N float64."""
        return cross_entropy(self.logits(images), self.targets).flatten(1).sum(1, dtype=torch.float64)

    def counts(self, images: Tensor) -> Tensor:
        """Class counts of each image, N×3×C int64 on the CPU."""
        predictions = self.logits(images).argmax(1)
        return class_counts(confusion_matrix(predictions, self.targets, self.num_classes, IGNORED)).cpu()

    def accuracies(self, images: Tensor) -> Tensor:
        """Pixel accuracy of each image, N float64 on the CPU."""
        return pixel_acc_from_counts(self.counts(images))

    @cached_property
    def clean(self) -> Tensor:
        """Pixel accuracy of each image without attack, N float64."""
        return self.accuracies(self.images)

    def attacked(self, attack: Attack, rescaled: bool = False) -> Tensor:
        """Adversarial images N×3×H×W, with the noise that the evaluation gives these samples.

        Args:
            attack: Called with targets whose ignored pixels carry the attack's own ignore index.
            rescaled: Show it the logits of :meth:`rescaled_answer`.
        """
        model = self.rescaled_answer if rescaled else self.answer
        targets = self.targets.masked_fill(~self.valid, attack.ignore_index)
        parts = []
        for rows in self.rows():
            ids = [self.ids[row] for row in rows.tolist()]
            noise = NoiseSource.for_samples((self.seed, attack.seed), ids, self.images.device)
            parts.append(attack(model, self.images[rows], targets[rows], generator=noise))
        return torch.cat(parts)


def median_margin(logits: Tensor) -> Tensor:
    """Median over an image's pixels of the largest logit minus the second largest, B values without a graph."""
    top = logits.detach().topk(2, dim=1).values
    return (top[:, 0] - top[:, 1]).flatten(1).median(1).values


def guarded(experiment: Callable[[], Evidence]) -> Evidence:
    """Run an experiment; what makes it fail is its evidence."""
    try:
        return experiment()
    except torch.cuda.OutOfMemoryError:
        raise
    # RuntimeError: what autograd raises where a model's graph is broken; AttackError is one.
    except RuntimeError as error:
        return {"error": str(error)}


def number(value: Tensor | float) -> float | None:
    """A float of six significant digits for the card, None where not finite."""
    plain = float(value)
    return float(f"{plain:.6g}") if abs(plain) < float("inf") else None


def spread(values: Tensor) -> dict[str, float | None]:
    """Smallest, median and largest of N values."""
    values = values.double()
    return {"min": number(values.min()), "median": number(values.quantile(0.5)), "max": number(values.max())}


def signs(images: Tensor, seed: int, draws: int = 1) -> Iterator[Tensor]:
    """Random ±1 of the shape of ``images``, the same for a seed on any device."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(draws):
        drawn = torch.rand(images.shape, generator=generator) < 0.5
        yield (1 - 2 * drawn.to(images.dtype)).to(images.device)
