"""Every kind of network through the command line: trained with an attacker on images of odd sizes, and scored."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from robustseg.cli.main import main
from robustseg.models import PSPNet
from tests.helpers.cases import partly
from tests.helpers.paths import CONF, ROOT

NETWORKS = sorted((ROOT / "configs" / "network").glob("*_small.yaml"))
TINY = ["--config", str(CONF / "tiny.yaml")]
ODD = ["--data.image_size", "[97, 131]", "--data.crop_size", "[97, 131]", "--data.train_length", "4"]
ODD += ["--data.val_length", "2", "--data.test_length", "2", "--data.batch_size", "2"]
SHORT = ["--trainer.max_epochs", "1", "--robustness.attacks", "{pgd2: {class_path: PGD, init_args: {steps: 2}}}"]


def card(folder: Path) -> dict:
    (path,) = folder.glob("evaluation_*/card.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    "path",
    # a convolutional network and a transformer stand for the others
    partly(NETWORKS, lambda path: path.stem in ("pspnet_small", "segformer_small")),
    ids=lambda path: path.stem,
)
def test_network_trains_with_an_attacker_on_odd_sizes(path, tmp_path):
    root = ["--trainer.default_root_dir", str(tmp_path), "--experiment", "odd"]
    assert main(["train", *TINY, "--config", str(path), *ODD, *SHORT, *root]) == 0
    run = tmp_path / "odd" / "version_0"
    results = card(run)
    assert results["data"]["images"] == 2
    assert 0 <= results["attacks"]["pgd2"]["pixel_acc"] <= 1
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.isfinite(value).all() for value in weights.values() if value.is_floating_point())


SEMSEG = {"backbone_args": {"stem_type": "deep", "stem_width": 8, "channels": [8, 16, 32, 64]}, "channels": 8}


def semseg_checkpoint(path: Path, num_classes: int) -> None:
    """What hszhao/semseg writes, of a PSPNet as narrow as a test needs it."""
    network = PSPNet(num_classes, "resnet50", align_corners=True, first_block_dilated=True, **SEMSEG)
    renames = (
        (r"backbone\.body\.bn1\.", "layer0.7."),
        (r"backbone\.body\.conv1\.", "layer0."),
        (r"backbone\.body\.", ""),
        (r"head\.branches\.", "ppm.features."),
        (r"head\.classifier\.0\.", "cls."),
        (r"head\.classifier\.2\.", "cls.4."),
        (r"aux_head\.0\.", "aux."),
        (r"aux_head\.2\.", "aux.4."),
    )
    state = {}
    for key, value in network.state_dict().items():
        pattern, new = next((old, new) for old, new in renames if re.match(old, key))
        state["module." + re.sub(rf"\A{pattern}", new, key)] = value
    torch.save({"epoch": 50, "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}, path)


@pytest.fixture
def semseg_network(tmp_path):
    arguments = {**SEMSEG, "backbone": "resnet50", "align_corners": True, "first_block_dilated": True}
    arguments["aux_head"] = True  # the smallest run has none
    path = tmp_path / "network.yaml"
    path.write_text(yaml.safe_dump({"model": {"network": {"class_path": "PSPNet", "init_args": arguments}}}))
    return ["--config", str(path)]


def test_a_checkpoint_of_another_project_is_attacked_with_one_flag(semseg_network, tmp_path, capsys):
    semseg_checkpoint(tmp_path / "train_epoch_50.pth", num_classes=7)
    command = ["evaluate", *TINY, *semseg_network, *ODD, *SHORT, "--check_images", "0"]
    assert main([*command, "--ckpt_path", str(tmp_path / "train_epoch_50.pth")]) == 0
    results = card(tmp_path)
    assert results["model"]["checkpoint"] == "train_epoch_50.pth"
    assert results["model"]["layout"] == "hszhao/semseg PSPNet"
    assert "raw weights of hszhao/semseg PSPNet" in next(tmp_path.glob("evaluation_*/report.html")).read_text()
    assert results["data"]["images"] == 2
    assert "pgd2" in capsys.readouterr().out


def test_its_classes_are_not_ours(semseg_network, tmp_path, capsys):
    semseg_checkpoint(tmp_path / "train_epoch_50.pth", num_classes=19)
    weights = ["--model.init_weights", str(tmp_path / "train_epoch_50.pth")]
    root = ["--trainer.default_root_dir", str(tmp_path)]
    command = ["train", *TINY, *semseg_network, *ODD, *SHORT, *root, *weights]
    assert main(command) == 1
    message = capsys.readouterr().err
    assert "trained with 19 classes, the model has 7" in message
    without = re.search(r"model.init_without: (\[.*?\])", message)
    assert main([*command, "--model.init_without", without[1]]) == 0
