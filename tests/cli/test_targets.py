"""robustness.targets on the command line, with images that have no masks."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml

from robustseg.cli.main import main
from robustseg.config.build import RobustSegCLI
from robustseg.evaluation import read_card
from tests.data import trees
from tests.helpers.paths import CONF


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on folders with masks, and a copy of its images without."""
    root = tmp_path_factory.mktemp("run")
    trees.pairs_tree(root / "drawn")
    for image in (root / "drawn").rglob("*.jpg"):
        target = root / "photographs" / image.relative_to(root / "drawn")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, target)
    config = yaml.safe_load((CONF / "tiny.yaml").read_text())
    config["data"] = {
        "class_path": "FolderPairs",
        "init_args": {
            "root": str(root / "drawn"), "classes": str(root / "drawn" / "classes.yaml"), "image_size": [48, 64],
            "num_workers": 0, "val_batch_size": 1,
        },
    }  # fmt: skip
    config["robustness"] = {"attacks": {"fgsm": {"class_path": "FGSM"}}}
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    cli = RobustSegCLI(["--config", str(root / "config.yaml")])
    with torch.no_grad():
        cli.model.model.network.head.apply(lambda m: m.weight.mul_(8) if hasattr(m, "kernel_size") else m)
    (root / "checkpoints").mkdir()
    torch.save({"state_dict": cli.model.state_dict()}, root / "checkpoints" / "last.ckpt")
    return root


def evaluate(run, *options):
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    return main(["evaluate", "--config", str(run / "config.yaml"), "--ckpt_path", checkpoint, *options])


def unlabelled(run):
    return ["--data.init_args.root", str(run / "photographs"), "--data.init_args.mask_folder", "null"]


def refusal(capsys, call) -> str:
    try:
        status = call()
    except SystemExit as exit:
        status = exit.code
    assert status in (1, 2)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return next(line for line in said.splitlines() if "robustseg: error: " in line)


@pytest.mark.slow
def test_images_without_masks_are_evaluated(run, tmp_path, capsys):
    options = ["--robustness.targets", "predictions", "--check_images", "1", "--output", str(tmp_path / "out")]
    assert evaluate(run, *unlabelled(run), *options) == 0
    card = read_card(tmp_path / "out")
    assert card.protocol.targets == "predictions"
    assert card.clean["miou"] == 1
    assert card.attacks["fgsm"]["miou_8bit"] is not None
    assert "own clean predictions" in capsys.readouterr().out
    with_masks = tmp_path / "with_masks"
    assert evaluate(run, *options[:-1], str(with_masks)) == 0
    rows = [json.loads((folder / "card.json").read_text())["attacks"] for folder in (with_masks, tmp_path / "out")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("asked", ["[labels, predictions]", "both", "[]"])
def test_both_are_refused_in_one_line(run, asked, capsys, tmp_path):
    said = refusal(capsys, lambda: evaluate(run, "--robustness.targets", asked, "--output", str(tmp_path / "out")))
    assert "robustness.targets = " in said
    assert "choose one of labels and predictions" in said
    assert not (tmp_path / "out").exists()


def test_labels_of_data_without_masks_are_refused(run, capsys, tmp_path):
    said = refusal(capsys, lambda: evaluate(run, *unlabelled(run), "--output", str(tmp_path / "out")))
    assert "the data have no masks" in said
    assert "robustness.targets to predictions" in said
    assert not (tmp_path / "out" / "records").exists()


def test_training_on_images_without_masks_is_refused(run, capsys, tmp_path):
    arguments = ["train", "--config", str(run / "config.yaml"), *unlabelled(run)]
    said = refusal(capsys, lambda: main([*arguments, "--trainer.default_root_dir", str(tmp_path)]))
    assert "no masks" in said


def test_a_study_is_refused(run, capsys, tmp_path):
    study = tmp_path / "study.yaml"
    curve = {"class_path": "StepCurve", "init_args": {"attacks": {"pgd": {"class_path": "PGD"}}, "steps": [1]}}
    study.write_text(yaml.safe_dump({"study": curve}))
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    arguments = ["study", "--config", str(run / "config.yaml"), "--config", str(study), "--ckpt_path", checkpoint]
    options = ["--robustness.targets", "predictions", "--output", str(tmp_path / "out")]
    said = refusal(capsys, lambda: main([*arguments, *options]))
    assert "a study scores against labels" in said
    assert not (tmp_path / "out").exists()
