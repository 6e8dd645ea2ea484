"""Sinks of an evaluator: what becomes of the records that it makes."""

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
    """A place for records, in memory or on a disk."""

    device: torch.device
    """Where the tensors of records are to be."""

    @abstractmethod
    def open(self, attacks: Mapping[str, Attack], views: Mapping[str, View], num_classes: int) -> None:
        """Prepare for records of these attacks and views, by name; called once, before anything else."""

    @abstractmethod
    def lacks(self, sample: str, name: str) -> bool:
        """Whether the record of this name is still to be measured on a sample."""

    @abstractmethod
    def begin(self) -> None:
        """Forget the answers to the batch before."""

    @abstractmethod
    def see(self, model: Model, name: str, batch: Batch, attacked: Attacked, pixel_accs: Tensor) -> None:
        """Take pictures of the attacked model's answers, before their records.

        Args:
            model: The attacked model.
            name: Of the attack, or "clean".
            batch: The clean images.
            attacked: The adversarial ones, and the answers.
            pixel_accs: B.
        """

    @abstractmethod
    def put(self, records: Sequence[ImageRecord]) -> None:
        """Take what one attack did to one batch, as one whole."""

    @abstractmethod
    def refuse(self, attack: str, error: NoGradientError) -> None:
        """Note that an attack cannot run on this model, or raise the error."""

    def close(self) -> None:  # noqa: B027
        """Let go of files."""


class MemorySink(Sink):
    """Scores of a data set, summed over the ranks of a distributed run by :meth:`compute`.

    Every sample must be given to one rank, once.

    Args:
        device: Where the counts are kept.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.seen: dict[str, Attacked] = {}
        """The last batch, clean and under each attack, for pictures."""
        self._scores: dict[str, ConfusionScores] = {}
        self._attacks: dict[str, AttackRecord] = {}

    def open(self, attacks: Mapping[str, Attack], views: Mapping[str, View], num_classes: int) -> None:  # noqa: D102
        self._scores = {name: ConfusionScores(num_classes).to(self.device) for name in (CLEAN, *attacks)}
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
        """Scores by name, "clean" first.

        The figures are those of :class:`~robustseg.metrics.SegmentationScores` and, for attacks, of
        :class:`~robustseg.evaluation.AttackRecord`.
        """
        scores = {name: scores.compute() for name, scores in self._scores.items()}
        for name, record in self._attacks.items():
            scores[name] |= record.compute()
        return scores
