"""``robustseg models`` and ``robustseg inspect``, as a user reads them."""

from __future__ import annotations

import hashlib
import re

import pytest
import torch
import yaml

from robustseg.cli.main import main
from robustseg.models import FCN, PSPNet, SegmentationModel
from robustseg.models.catalogue import catalogue
from tests.models.checkpoints.reference_semseg import Reference

SMALL = {"channels": [8, 16, 32, 64]}


def printed(capsys, *args, status=0):
    assert main([str(arg) for arg in args]) == status
    out = capsys.readouterr()
    return out.out if status == 0 else out.out + out.err


def test_the_table_has_a_row_for_each_network(capsys, monkeypatch):
    few = {name: catalogue()[name] for name in ("fcn_small", "pspnet_r50_semseg", "smpnetwork_small")}
    monkeypatch.setattr("robustseg.cli.networks.catalogue", lambda: few)
    text = printed(capsys, "models")
    assert [line.split()[0] for line in text.splitlines() if line.split()[1:2] and line.split()[0] in few] == list(few)
    (row,) = [line for line in text.splitlines() if line.startswith("pspnet_r50_semseg")]
    assert row.split() == ["pspnet_r50_semseg", "PSPNet", "49.1", "1/8", "1/8", "ImageNet"]
    assert f"{row}\n    loads hszhao/semseg PSPNet" in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_a_network_whose_library_is_absent_keeps_its_row(capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "segmentation_models_pytorch", None)
    monkeypatch.setattr(
        "robustseg.cli.networks.catalogue", lambda: {"smpnetwork_small": catalogue()["smpnetwork_small"]}
    )
    assert "pip install segmentation-models-pytorch" in printed(capsys, "models")


def test_one_network_in_full_is_a_configuration(capsys):
    text = printed(capsys, "models", "fcn_small")
    assert "1.49 million with 21 classes" in text
    assert "features 1/16, logits 1/16" in text
    assert yaml.safe_load(text[text.index("model:") :])["model"]["network"]["class_path"] == "FCN"


def test_an_unknown_network_is_suggested(capsys):
    assert "did you mean pspnet_" in printed(capsys, "models", "pspnet50", status=1)


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "last.ckpt"
    record = {"format": 1, "epoch": 2, "global_step": 30, "trained_with": {"attack": "SegPGD"}}
    record |= {"val": {"miou": 0.5, "pixel_acc": 0.9, "images": 7, "precision": "32"}, "data": None}
    model = SegmentationModel(FCN(11, "resnet10t", 16, 8, backbone_args=SMALL))
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, "robustseg": record, "epoch": 2}, path)
    return path


def test_a_checkpoint_of_our_own(own, capsys, monkeypatch):
    monkeypatch.setattr("robustseg.models.checkpoints.inspect.catalogue", lambda: {})
    text = printed(capsys, "inspect", own)
    for words in (
        hashlib.sha256(own.read_bytes()).hexdigest(),
        "state_dict > model.",
        "robustseg, epoch",
        "epoch 2, step 30",
        "SegPGD",
        "miou 0.5000, pixel_acc 0.9000 of 7 images",
    ):
        assert words in text, text


def test_the_key_report_with_a_configuration(own, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("robustseg.models.checkpoints.inspect.catalogue", lambda: {})
    network = {"class_path": "FCN", "init_args": {"backbone": "resnet10t", "output_stride": 16, "channels": 8}}
    network["init_args"] |= {"backbone_args": SMALL, "pretrained": True}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"model": {"network": network}}))
    assert "fits         FCN of 11 classes: every tensor" in printed(capsys, "inspect", own, "--config", config)
    text = printed(capsys, "inspect", own, "--config", config, "--num_classes", "4", status=1)
    assert "4 of another shape or kind: network.head.2.weight" in text
    assert "network.head.2.weight is float32 [11, 8, 1, 1] in the file, float32 [4, 8, 1, 1] in the network" in text
    network["init_args"]["aux_head"] = False
    config.write_text(yaml.safe_dump({"model": {"network": network}}))
    text = printed(capsys, "inspect", own, "--config", config, status=1)
    assert "unexpected in the file" in text
    assert "  network.aux_head.0.0.weight" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("model: {network: {class_path: os.system, init_args: {command: ls}}}", "model.network"),
        ("model: {network: {class_path: torch.nn.Linear}}", "model.network"),
        ("data: {}", "no model.network"),
        ("model: [", "cannot be read as YAML"),
    ],
)
def test_a_configuration_is_limited_as_for_training(content, words, own, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("robustseg.models.checkpoints.inspect.catalogue", lambda: {})
    config = tmp_path / "config.yaml"
    config.write_text(content)
    assert words in printed(capsys, "inspect", own, "--config", config, status=1)


def test_a_checkpoint_of_another_project(tmp_path, capsys):
    state = {f"module.{key}": value for key, value in Reference("pspnet", classes=19).state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state, "state_dict_ema": state}, tmp_path / "train.pth")
    text = printed(capsys, "inspect", tmp_path / "train.pth", "--network", "pspnet_r50_semseg")
    for words in (
        "hszhao/semseg PSPNet",
        "network/pspnet_r50_semseg",
        "classes      19",
        "state_dict_ema (another state dict)",
        "fits         PSPNet of 19 classes",
    ):
        assert words in text, text
    text = printed(capsys, "inspect", tmp_path / "train.pth", "--network", "pspnet_r50", status=1)
    assert "needs align_corners: true" in text


def test_a_named_network_is_found_by_its_tensors(tmp_path, capsys, monkeypatch):
    few = {name: catalogue()[name] for name in ("fcn_small", "pspnet_small")}
    monkeypatch.setattr("robustseg.models.checkpoints.inspect.catalogue", lambda: few)
    args = few["pspnet_small"].init_args
    torch.save(SegmentationModel(PSPNet(7, **args)).state_dict(), tmp_path / "weights.pth")
    text = printed(capsys, "inspect", tmp_path / "weights.pth")
    assert "network/pspnet_small" in text
    assert "classes      7" in text


def test_files_that_are_none(tmp_path, capsys):
    (tmp_path / "empty.pth").write_bytes(b"")
    assert "it is empty" in printed(capsys, "inspect", tmp_path / "empty.pth", status=1)
    assert "does not exist" in printed(capsys, "inspect", tmp_path / "absent.pth", status=1)


def test_classes_that_are_not_along_the_first_axis(tmp_path, capsys, monkeypatch):
    few = {"segmenter_small": catalogue()["segmenter_small"]}
    monkeypatch.setattr("robustseg.models.checkpoints.inspect.catalogue", lambda: few)
    network = few["segmenter_small"].build(7).to_empty(device="cpu")
    torch.save(SegmentationModel(network).state_dict(), tmp_path / "own.pth")
    text = printed(capsys, "inspect", tmp_path / "own.pth")
    assert "segmenter_small" in text
    assert re.search(r"^  classes +7$", text, re.MULTILINE)
