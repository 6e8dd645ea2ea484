"""Sinks of an evaluator: they receive its records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from robustseg.attacks import Attack, NoGradientError
from robustseg.attacks.guard import Model
from robustseg.evaluation.attacking import CLEAN, Attacked
from robustseg.evaluation.record import FOOLED, AttackRecord
from robustseg.evaluation.store import ImageRecord
from robustseg.evaluation.views import View
from robustseg.metrics import ConfusionScores
from robustseg.types import Batch


class Sink(ABC):
    """A receiver of records, in memory or on a disk."""

    device: torch.device
    """Device for the tensors of records."""
    rounds = False
    """True if it takes the scores of each attack's images after rounding to 8 bit as well; they cost a forward."""

    @abstractmethod
    def open(self, attacks: Mapping[str, Attack], views: Mapping[str, View], num_classes: int) -> None:
        """Prepare for records of these attacks and views, by name; called once, before anything else."""

    @abstractmethod
    def lacks(self, sample: str, name: str) -> bool:
        """Return True if the record of this name is still to be measured on a sample."""

    @abstractmethod
    def begin(self) -> None:
        """Forget the predictions on the previous batch."""

    @abstractmethod
    def see(self, model: Model, name: str, batch: Batch, attacked: Attacked, pixel_accs: Tensor) -> None:
        """Receive the attacked model's predictions for pictures, before their records.

        Args:
            model: The attacked model.
            name: Name of the attack, or "clean".
            batch: The batch, with the clean images B×3×H×W.
            attacked: The adversarial images, and the predictions for them.
            pixel_accs: B pixel accuracies in [0, 1].
        """

    @abstractmethod
    def put(self, records: Sequence[ImageRecord]) -> None:
        """Receive the records of one batch under one attack, as one unit."""

    @abstractmethod
    def refuse(self, attack: str, error: NoGradientError) -> None:
        """Note that an attack cannot run on this model, or raise the error.

        Raises:
            NoGradientError: The sink does not accept a missing attack.
        """

    def close(self) -> None:  # noqa: B027
        """Close files."""


class MemorySink(Sink):
    """A sink that counts in memory; :meth:`compute` sums over the ranks of a distributed run.

    Every sample must be given to one rank, once.

    Args:
        device: Device of the counts.
        num_scored: Number of classes that are scored, the first ones; None for all.
    """

    def __init__(self, device: torch.device | str = "cpu", num_scored: int | None = None):
        self.device = torch.device(device)
        self.num_scored = num_scored
        self.seen: dict[str, Attacked] = {}
        """The last batch by name of the attack, "clean" included, for pictures."""
        self._scores: dict[str, ConfusionScores] = {}
        self._attacks: dict[str, AttackRecord] = {}

    def open(self, attacks: Mapping[str, Attack], views: Mapping[str, View], num_classes: int) -> None:  # noqa: D102
        self._scores = {
            name: ConfusionScores(num_classes, self.num_scored).to(self.device) for name in (CLEAN, *attacks)
        }
        self._attacks = {
            name: AttackRecord(getattr(attack, "success", FOOLED)).to(self.device) for name, attack in attacks.items()
        }

    def lacks(self, sample: str, name: str) -> bool:  # noqa: D102
        return True

    def begin(self) -> None:  # noqa: D102
        self.seen = {}

    def see(  # noqa: D102
        self, model: Model, name: str, batch: Batch, attacked: Attacked, pixel_accs: Tensor
    ) -> None:
        self.seen[name] = attacked

    def put(self, records: Sequence[ImageRecord]) -> None:  # noqa: D102
        name = records[0].attack
        self._scores[name].update(torch.stack([record.confusion for record in records]))
        if name in self._attacks:
            self._attacks[name].update(torch.stack([record.figures for record in records]))

    def refuse(self, attack: str, error: NoGradientError) -> None:  # noqa: D102
        raise error

    def compute(self) -> dict[str, dict[str, Tensor]]:
        """Compute the figures by name of the attack, "clean" first.

        They are those of :class:`~robustseg.metrics.SegmentationScores` and, for attacks, of
        :class:`~robustseg.evaluation.AttackRecord`.
        """
        scores = {name: scores.compute() for name, scores in self._scores.items()}
        for name, record in self._attacks.items():
            scores[name] |= record.compute()
        return scores
