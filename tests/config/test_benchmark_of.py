"""From a checkpoint's file to what is to be measured of its model."""

from __future__ import annotations

import pytest
import torch

from robustseg.callbacks import RobustnessEvaluation
from robustseg.config.benchmark_of import benchmark_of
from robustseg.data import SyntheticScenes
from robustseg.evaluation.benchmark import Shard
from robustseg.models import RECORD_KEY, load_segmentation_weights
from robustseg.training import RobustSegmentation
from tests.helpers.nets import ToyNetwork

TRAINED_WITH = {"attack": "SegPGD", "eps": "8/255", "steps": 3}


def record(**changes):
    return {
        "format": 1,
        "val": {"miou": 0.25, "pixel_acc": 0.75, "images": 3, "precision": "32-true"},
        "data": {"name": "SyntheticScenes", "split": "test", "image_size": [32, 32], "window": None},
        "epoch": 3,
        "global_step": 40,
        "trained_with": TRAINED_WITH,
    } | changes


@pytest.fixture
def reads(monkeypatch):
    """The files that tensors were read from, in order."""
    found = []
    load = torch.load

    def counted(path, *args, **kwargs):
        found.append(str(path))
        return load(path, *args, **kwargs)

    monkeypatch.setattr(torch, "load", counted)
    return found


def benchmark_from(path, own):
    """The benchmark of a model with the weights of a checkpoint, which has a record of its own."""
    module = RobustSegmentation(ToyNetwork(7))
    state = {f"model.{name}": value for name, value in module.model.state_dict().items()}
    torch.save({"state_dict": state, RECORD_KEY: own}, path)
    data = SyntheticScenes(image_size=(32, 32), test_length=3, batch_size=1, num_workers=0)
    weights = load_segmentation_weights(module.model, path)
    return benchmark_of(module, data, RobustnessEvaluation(), {}, weights, Shard(), 0, None)


def test_a_checkpoint_is_read_once(reads, tmp_path):
    benchmark = benchmark_from(tmp_path / "last.ckpt", record())
    assert reads == [str(tmp_path / "last.ckpt")]
    assert (benchmark.trained_with, benchmark.reference_miou) == (TRAINED_WITH, 0.25)
    assert benchmark.facts["model"]["weights"] == "raw"


def test_what_a_record_does_not_say_of_these_weights_is_left_out(tmp_path):
    averaged = benchmark_from(tmp_path / "last.ckpt", record(averaged=True, val=None, trained_with=None))
    assert (averaged.trained_with, averaged.reference_miou) == (None, None)
    assert averaged.facts["model"]["weights"] == "averaged"
    strange = benchmark_from(tmp_path / "last.ckpt", record(format=99))
    assert (strange.trained_with, strange.reference_miou) == ("unknown", None)
