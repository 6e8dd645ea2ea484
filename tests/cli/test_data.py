"""Every data set through the command line, on files in its layout: trained on, and scored on its test split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from robustseg.cli.main import main
from tests.data import trees

pytestmark = pytest.mark.slow
RUN = {
    "trainer": {"accelerator": "cpu", "max_epochs": 1, "limit_train_batches": 1, "enable_progress_bar": False},
    "model": {
        "network": {
            "class_path": "FCN",
            "init_args": {"backbone": "test_resnet", "output_stride": 8, "channels": 8, "aux_head": False},
        },
        "attack": {"class_path": "SegPGD", "init_args": {"steps": 1}},
    },
    "robustness": {"attacks": {"fgsm": {"class_path": "FGSM"}}},
}
SMALL = {"crop_size": [32, 48], "batch_size": 2, "val_batch_size": 1, "num_workers": 0}


def command(tmp_path: Path, **data) -> list[str]:
    run = {**RUN, "data": {"class_path": data.pop("name"), "init_args": {**SMALL, **data}}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    return ["train", "--config", str(tmp_path / "run.yaml"), "--trainer.default_root_dir", str(tmp_path / "runs")]


def results(tmp_path: Path) -> dict:
    (path,) = tmp_path.glob("runs/default/version_0/evaluation_*/card.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    "name", ["FolderPairs", *(pytest.param(n, marks=pytest.mark.exhaustive) for n in trees.TREES if n != "FolderPairs")]
)
def test_a_run_on_files(name, tmp_path, capsys):
    trees.TREES[name](tmp_path / "data")
    more = {"classes": str(tmp_path / "data" / "classes.yaml")} if name == "FolderPairs" else {}
    assert main(command(tmp_path, name=name, root=str(tmp_path / "data"), **more)) == 0, capsys.readouterr().err
    card = results(tmp_path)
    assert card["data"]["name"] == name
    assert card["data"]["images"] > 0
    assert 0 <= card["attacks"]["fgsm"]["pixel_acc"] <= 1


def test_a_run_that_downloads_first(tmp_path, monkeypatch):
    import torchvision.datasets

    monkeypatch.setattr(
        torchvision.datasets, "VOCSegmentation", lambda root, year, download: trees.voc_tree(Path(root))
    )
    assert main(command(tmp_path, name="PascalVOC", root=str(tmp_path / "data"), download=True)) == 0
    assert results(tmp_path)["data"]["split"] == "val"


def test_a_layout_that_is_not_there_is_said_before_anything_is_written(tmp_path, capsys):
    assert main(command(tmp_path, name="Cityscapes", root=str(tmp_path / "data"))) == 1
    message = capsys.readouterr().err
    for word in ("leftImg8bit", "data.root", "robustseg datasets Cityscapes"):
        assert word in message
    assert not (tmp_path / "runs").exists()


def test_too_many_accumulated_batches_of_a_global_batch(tmp_path, capsys):
    trees.voc_tree(tmp_path / "data")
    arguments = command(tmp_path, name="PascalVOC", root=str(tmp_path / "data"), global_batch_size=2)
    assert main([*arguments, "--trainer.accumulate_grad_batches", "2"]) != 0
    message = capsys.readouterr().err
    assert "a batch of 1 image per rank cannot be split" in message
    assert "data.global_batch_size = 2, so raise that, lower trainer.accumulate_grad_batches" in message
    assert "data.batch_size" not in message
