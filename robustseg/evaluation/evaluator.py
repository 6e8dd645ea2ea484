"""Scores of a model on clean images and under attacks, without Lightning."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from robustseg.attacks import Attack, AttackStep, NoiseSource, Targeted, attack_mode
from robustseg.attacks.base import check_logits
from robustseg.attacks.guard import Model
from robustseg.attacks.losses import IGNORED
from robustseg.evaluation.record import FOOLED, AttackRecord
from robustseg.metrics import SegmentationScores
from robustseg.types import IGNORE_INDEX

CLEAN = "clean"
"""Name of the scores without attack."""


class Attacked(NamedTuple):
    """One batch under one attack."""

    images_adv: Tensor
    """B×3×H×W."""
    predictions: Tensor
    """B×H×W."""


OnAttackStep = Callable[[str, AttackStep], None]


class RobustnessEvaluator:
    """Accumulates data-set scores, clean and under each attack.

    Everything is computed in the dtype of the images without autocast and TF32, whatever precision the training
    uses, with the model in eval mode. Start noise depends on the seeds and the sample id only: figures do not depend
    on the batch size, the order or the number of ranks. In a distributed run the sampler must give each sample to one
    rank, once; :meth:`compute` sums over the ranks.

    Args:
        attacks: Attacks by the name they are reported under.
        num_classes: C.
        ignore_index: Label of pixels that are not counted.
        seed: Seed of the attacks' noise.
        device: Where the counts are kept.

    Raises:
        ValueError: An attack is called "clean".
    """

    def __init__(
        self,
        attacks: Mapping[str, Attack],
        num_classes: int,
        ignore_index: int = IGNORE_INDEX,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        if CLEAN in attacks:
            raise ValueError(f"an attack cannot be called {CLEAN!r}: that is the name of the scores without attack.")
        self.attacks = dict(attacks)
        self.seed = seed
        self.ignore_index = ignore_index
        self._scores = {
            name: SegmentationScores(num_classes, ignore_index).to(device) for name in (CLEAN, *self.attacks)
        }
        self.records = {
            name: AttackRecord(ignore_index, getattr(attack, "success", FOOLED)).to(device)
            for name, attack in self.attacks.items()
        }
        """What each attack did to each image."""

    def update(
        self,
        model: Model,
        ids: Sequence[str],
        images: Tensor,
        targets: Tensor,
        on_step: OnAttackStep | None = None,
    ) -> dict[str, Attacked]:
        """Score a batch and return what was seen, for pictures.

        Args:
            model: Maps images in [0, 1] to logits at their size.
            ids: B sample ids.
            images: B×3×H×W in [0, 1].
            targets: B×H×W.
            on_step: Called with the attack's name after each of its gradients.
        """
        seen = {}
        with full_precision():
            seen[CLEAN] = self._score(CLEAN, model, images, targets)
            for name, attack in self.attacks.items():
                noise = NoiseSource.for_samples((self.seed, attack.seed), ids, images.device)
                observer = None if on_step is None else _named(on_step, name)
                start = time.perf_counter()
                result = attack.run(model, images, targets, generator=noise, on_step=observer)
                if images.is_cuda:
                    torch.cuda.synchronize(images.device)
                seconds = time.perf_counter() - start
                seen[name] = self._score(name, model, result.images_adv, targets)
                wanted = attack.wanted(targets) if isinstance(attack, Targeted) else None
                self.records[name].update(result, images, seen[name].predictions, targets, seconds, wanted)
        return seen

    def _score(self, name: str, model: Model, images: Tensor, targets: Tensor) -> Attacked:
        with attack_mode(model) as evaluated, torch.no_grad():
            answer = evaluated(images)
            valid = targets.long().masked_fill(targets == self.ignore_index, IGNORED)
            # NaN would be scored as some class: a broken model must not get figures.
            predictions = check_logits(answer, images, valid, differentiable=False).argmax(1)
        self._scores[name].update(predictions, targets)
        return Attacked(images, predictions)

    def compute(self) -> dict[str, dict[str, Tensor]]:
        """Scores by name, "clean" first.

        The figures are those of :class:`~robustseg.metrics.SegmentationScores` and, for attacks, of
        :class:`~robustseg.evaluation.AttackRecord`.
        """
        scores = {name: scores.compute() for name, scores in self._scores.items()}
        for name, record in self.records.items():
            scores[name] |= record.compute()
        return scores


def _named(on_step: OnAttackStep, name: str) -> Callable[[AttackStep], None]:
    return lambda step: on_step(name, step)


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 without autocast and without TF32 for the duration, in which robustness figures are to be computed."""
    matmul = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    try:
        torch.set_float32_matmul_precision("highest")
        with (
            cudnn.flags(cudnn.enabled, cudnn.benchmark, cudnn.benchmark_limit, cudnn.deterministic, allow_tf32=False),
            torch.autocast("cuda", enabled=False),
            torch.autocast("cpu", enabled=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
