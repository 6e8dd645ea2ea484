"""From a checkpoint's file to what is to be measured of its model."""

from __future__ import annotations

import pytest
import torch

from robustseg.attacks import PGD
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
    return benchmark_of_file(path, lambda state: {"state_dict": state, RECORD_KEY: own})


def benchmark_of_file(path, content, attack=None):
    """The benchmark of a model with the weights of a file, by the configuration of another training."""
    module = RobustSegmentation(ToyNetwork(7), attack)
    state = {f"model.{name}": value for name, value in module.model.state_dict().items()}
    torch.save(content(state), path)
    data = SyntheticScenes(image_size=(32, 32), test_length=3, batch_size=1, num_workers=0)
    weights = load_segmentation_weights(module.model, path)
    return benchmark_of(module, data, RobustnessEvaluation(), {}, weights, Shard(), 0, None)


def test_a_checkpoint_is_read_once(reads, tmp_path):
    benchmark = benchmark_from(tmp_path / "last.ckpt", record())
    assert len(reads) == 1
    assert (benchmark.trained_with, benchmark.reference_miou) == (TRAINED_WITH, 0.25)
    assert benchmark.facts["model"]["weights"] == "raw"


def test_what_a_record_does_not_say_of_these_weights_is_left_out(tmp_path):
    averaged = benchmark_from(tmp_path / "last.ckpt", record(averaged=True, val=None, trained_with=None))
    assert (averaged.trained_with, averaged.reference_miou) == (None, None)
    assert averaged.facts["model"]["weights"] == "averaged"
    strange = benchmark_from(tmp_path / "last.ckpt", record(format=99))
    assert (strange.trained_with, strange.reference_miou) == ("unknown", None)


STRANGERS = {
    "a plain state dict": lambda state: state,
    "a network alone": lambda state: {key.removeprefix("model.network."): state[key] for key in state if "net" in key},
    "Lightning's of somebody": lambda state: {"state_dict": state, "epoch": 3, "hyper_parameters": {"attack": "PGD"}},
    "an average": lambda state: {"state_dict_ema": state, "epoch": 3},
    "an average within": lambda state: {key.replace("model.", "ema.module.", 1): state[key] for key in state},
    "mmengine's": lambda state: {"state_dict": state, "meta": {"cfg": "model = dict()", "attacker": "PGD"}},
    "a record of a later version": lambda state: {"state_dict": state, RECORD_KEY: record(format=2)},
    "a record without the attacker": lambda state: {
        "state_dict": state, RECORD_KEY: {k: v for k, v in record().items() if k != "trained_with"},
    },
}  # fmt: skip


@pytest.mark.parametrize("file", STRANGERS)
@pytest.mark.parametrize("attack", [None, PGD()], ids=["clean configuration", "configuration with an attacker"])
def test_the_training_of_a_stranger_s_weights_is_unknown(file, attack, tmp_path):
    benchmark = benchmark_of_file(tmp_path / "file.pth", STRANGERS[file], attack)
    assert (benchmark.trained_with, benchmark.reference_miou) == ("unknown", None)
    assert benchmark.facts["model"]["weights"] == ("averaged" if "average" in file else "raw")


@pytest.mark.parametrize("attack", [None, PGD()], ids=["clean configuration", "configuration with an attacker"])
@pytest.mark.parametrize("known", [None, TRAINED_WITH], ids=["clean", "attacked"])
def test_a_file_that_says_so_is_believed_and_not_the_configuration(known, attack, tmp_path):
    content = {RECORD_KEY: record(trained_with=known)}
    found = benchmark_of_file(tmp_path / "file.ckpt", lambda state: {"state_dict": state, **content}, attack)
    assert found.trained_with == known
