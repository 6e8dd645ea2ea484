"""Scores and losses by literal loops over pixels in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from robustseg.attacks import Attack, NoiseSource
from robustseg.data import collate

IGNORED = 255


def images_of(data, only=None):
    """(id, image 1×3×H×W, target 1×H×W) of each test sample."""
    dataset = data.dataset("test")
    for index in range(len(dataset)):
        batch = collate([dataset[index]])
        if only is None or batch.ids[0] in only:
            yield batch.ids[0], batch.images, batch.targets


def attacked(model, attack: Attack, sample: str, image: Tensor, target: Tensor, seed: int = 0, on_step=None) -> Tensor:
    """One image under an attack, with the noise that belongs to it."""
    noise = NoiseSource.for_samples((seed, attack.seed), [sample], image.device)
    return attack(model, image, target, generator=noise, on_step=on_step)


def scores(data, answer: Callable[[str, Tensor, Tensor], Tensor], classes: int) -> dict[str, float]:
    """pixel_acc, mean_acc, miou and image_miou of what ``answer(id, image, target)`` predicts, 1×C×H×W."""
    total = [[0] * classes for _ in range(classes)]
    per_image = []
    for sample, image, target in images_of(data):
        predictions, truth = answer(sample, image, target).argmax(1).flatten().tolist(), target.flatten().tolist()
        own = [[0] * classes for _ in range(classes)]
        for predicted, true in zip(predictions, truth, strict=True):
            if true != IGNORED:
                own[true][predicted] += 1
                total[true][predicted] += 1
        per_image.append(_miou(own))
    correct, pixels = sum(total[c][c] for c in range(classes)), sum(map(sum, total))
    accuracies = [total[c][c] / sum(total[c]) for c in range(classes) if sum(total[c])]
    return {
        "pixel_acc": correct / pixels,
        "mean_acc": sum(accuracies) / len(accuracies),
        "miou": _miou(total),
        "image_miou": sum(per_image) / len(per_image),
    }


def _miou(matrix: Sequence[Sequence[int]]) -> float:
    classes, found = range(len(matrix)), []
    for c in classes:
        union = sum(matrix[c]) + sum(matrix[row][c] for row in classes) - matrix[c][c]
        if union:
            found.append(matrix[c][c] / union)
    return sum(found) / len(found)


def losses(logits: Tensor, target: Tensor) -> tuple[int, int, float, float]:
    """Valid and wrong pixels, TLoss and FLoss as sums, of logits C×H×W and target H×W."""
    valid, wrong, tloss, floss = 0, 0, 0.0, 0.0
    columns = logits.double().flatten(1).t().tolist()
    for values, true in zip(columns, target.flatten().tolist(), strict=True):
        if true == IGNORED:
            continue
        loss = math.log(sum(math.exp(value - values[true]) for value in values))
        valid += 1
        if max(values) > values[true]:
            wrong, floss = wrong + 1, floss + loss
        else:
            tloss += loss
    return valid, wrong, tloss, floss


def full_size(model) -> Callable[[Tensor], Tensor]:
    def answer(images: Tensor) -> Tensor:
        with torch.no_grad():
            return model(images)

    return answer
