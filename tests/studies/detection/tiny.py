"""The smallest study of detection: three images of 32×32 pixels with ignored ones among them, nets of two layers."""

from __future__ import annotations

from typing import Any

import torch

from robustseg.attacks import DAG, PGD, PureClass, Strip
from robustseg.data import SyntheticScenes, collate
from robustseg.studies import Detection, run_study, run_transfer
from tests.evaluation.benchmark.tiny import quiet_trainer, tiny_benchmark, tiny_data, toy_model

CLASSES = 7
DAG_STEPS = 12
ATTACKS = {
    "dag": DAG(step_size="4/255", steps=DAG_STEPS, success=0.9, targeted=True),
    "pgd": PGD(eps="16/255", steps=2, targeted=True),
}
MAPS = {"pure": PureClass(2), "strip": Strip([1, 4])}
SMALL: dict[str, Any] = {
    "patch_size": 12,
    "displacement": (2, 4),
    "k": [2, 1],
    "sigmas": [1.0],
    "adaptive": ["dag_pure"],
    "attacked_k": [1],
    "curve_k": 2,
    "curve_steps": [1, 3, 12],
    "entropy_k": 3,
    "entropy_images": 2,
}
MODELS = {name: toy_model(seed) for seed, name in enumerate("abc")}


def with_ignored(dataset):
    """Some rows of each image are ignored, others from image to image."""
    read = dataset.read

    def ignoring(index):
        image, target = read(index)
        target = target.copy()
        target[index : 3 + 2 * index] = 255
        return image, target

    dataset.read = ignoring
    return dataset


def scenes() -> SyntheticScenes:
    data = tiny_data(test_length=3, val_batch_size=2)
    with_ignored(data.dataset("test"))
    return data


DATA = scenes()


def samples():
    """All images as one batch."""
    dataset = DATA.dataset("test")
    return collate([dataset[index] for index in range(len(dataset))])


def detection(attacks=ATTACKS, maps=MAPS, **changes: Any) -> Detection:
    return Detection(dict(attacks), dict(maps), **(SMALL | changes))


def benchmark(name="a", model=None, **changes: Any):
    checkpoint = {"path": f"{name}.ckpt", "sha256": name * 64}
    return tiny_benchmark(model=model or MODELS[name], data=DATA, checkpoint=checkpoint, attacks={}, **changes)


def study_of(folder, study, of=None, **changes: Any):
    return run_study(quiet_trainer(folder), of or benchmark(), study, folder, **changes)


def transfer_of(folder, study, names="ab", **changes: Any):
    return run_transfer(quiet_trainer(folder), {name: benchmark(name, **changes) for name in names}, study, folder)


def answer_of(model):
    def answer(images):
        with torch.no_grad():
            return model(images)

    return answer
