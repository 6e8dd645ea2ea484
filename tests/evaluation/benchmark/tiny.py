"""The smallest benchmark there is: eleven images of 32×32 pixels, three attacks, a net of two convolutions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from robustseg.attacks import FGSM, PGD, Attack, CosPGD
from robustseg.data import SyntheticScenes
from robustseg.evaluation.benchmark import Benchmark, module, run
from robustseg.evaluation.records import measured_with
from robustseg.evaluation.store import read_records, streams
from robustseg.models import SegmentationModel
from robustseg.opening.seal import unsealed
from tests.helpers.nets import ToyNetwork

IMAGES = 11
ATTACKS: Mapping[str, Attack] = {"fgsm": FGSM(), "pgd2": PGD(steps=2), "cospgd2": CosPGD(steps=2)}


def toy_model(seed: int = 0) -> SegmentationModel:
    """Random weights whose answers depend on the image."""
    torch.manual_seed(seed)
    network = ToyNetwork(7)
    with torch.no_grad():
        network.head.weight *= 4
    return SegmentationModel(network).eval()


def tiny_data(**changes: Any) -> SyntheticScenes:
    settings = {"image_size": (32, 32), "test_length": IMAGES, "batch_size": 4, "val_batch_size": 3, "num_workers": 0}
    return SyntheticScenes(**(settings | changes))


def tiny_benchmark(**changes: Any) -> Benchmark:
    settings: dict[str, Any] = {
        "model": toy_model(),
        "data": tiny_data(),
        "attacks": ATTACKS,
        "checkpoint": {"path": "toy.ckpt", "sha256": "0" * 64},
        "trained_with": None,
        "suite": "tiny",
        "check_images": 0,
    }
    return Benchmark(**(settings | changes))


def quiet_trainer(folder: Path) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        inference_mode=False,
        default_root_dir=folder,
    )


def measured(folder: Path) -> Counter[tuple[str, str]]:
    """How often each (sample, attack) stands in the records of a folder; records of rounded images lie beside them."""
    found = (record for stream in streams(folder) for record in read_records(stream))
    return Counter((record.sample, record.attack) for record in found if measured_with(record.attack) == record.attack)


@contextmanager
def interrupted(patch: pytest.MonkeyPatch, after: int) -> Iterator[None]:
    """Within it, a user interrupts the attack that follows ``after`` others."""
    run_attack, left = Attack.run, [after]

    def failing(self: Attack, *args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return run_attack(self, *args, **kwargs)

    with patch.context() as patched, pytest.raises((KeyboardInterrupt, SystemExit)):
        patched.setattr(Attack, "run", failing)
        yield


def measure(benchmark: Benchmark, folder: Path) -> dict[str, Any] | None:
    card = run.run_benchmark(quiet_trainer(folder), benchmark, folder)
    return None if card is None else card.as_dict()


def card_of(folder: Path) -> dict[str, Any]:
    return unsealed(json.loads((folder / "card.json").read_text(encoding="utf-8")))


def without_report(patch: pytest.MonkeyPatch) -> None:
    """Leave out the report, which takes most of the time and is tested elsewhere, and asking git for the commit."""
    patch.setattr(run, "write_report", lambda card, path, pictures, **_: path.write_text(str(len(pictures))))
    patch.setattr(module, "commit", lambda: None)
