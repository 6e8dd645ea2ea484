"""Outputs that the data has no class for, through the command line, and a published checkpoint's own figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustseg.cli.main import main
from tests.helpers.paths import CONF
from tests.helpers.real import camvid, published

TINY = ["--config", str(CONF / "tiny.yaml")]
SMALL = ["--model.network", "ESPNet", "--model.network.p", "1", "--model.network.q", "1"]
FEW = ["--data.train_length", "4", "--data.val_length", "2", "--data.test_length", "2", "--data.batch_size", "2"]
VOID = ["--model.drop_classes", "[0]", "--model.void_class", "3", "--model.class_weights", "inverse"]
SUITE = ["--robustness.attacks", "{sea: {class_path: SEA, init_args: {steps: 4}}}"]
PUBLISHED = {"pixel_acc": 92.68, "mean_acc": 79.71, "miou": 70.10}
"""The authors' network and file on CamVid's 101 validation images: of 12 outputs, over 11 classes, void ignored."""
ROWS = {
    "void": (["--model.drop_classes", "null", "--model.void_class", "11"], PUBLISHED),
    "counted": (
        ["--model.drop_classes", "null", "--model.void_class", "11", "--robustness.count_void", "true"],
        {"mean_acc": 79.71, "miou": 68.68},
    ),
    "dropped": ([], {"pixel_acc": 93.30, "mean_acc": 80.84, "miou": 69.35}),
}


def card(folder: Path) -> dict:
    return json.loads((folder / "card.json").read_text())


@pytest.mark.slow
def test_a_model_with_void_trains_and_is_scored(tmp_path):
    root = ["--trainer.default_root_dir", str(tmp_path), "--experiment", "void", "--trainer.max_epochs", "1"]
    assert main(["train", *TINY, *SMALL, *FEW, *VOID, *SUITE, *root]) == 0
    run = tmp_path / "void" / "version_0"
    (found,) = run.glob("evaluation_*")
    assert card(found)["model"]["outputs"] == {"drop_classes": [0], "void_class": 3}
    assert len(card(found)["clean"]["class_iou"]) == 7
    arguments = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    assert main(["evaluate", *arguments, "--robustness.count_void", "true", "--output", str(tmp_path / "b")]) == 0
    assert card(tmp_path / "b")["protocol"]["count_void"]


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_the_published_checkpoint_has_its_published_figures(row, tmp_path):
    options, expected = ROWS[row]
    file = published() / "espnet_p2_q8_camvid.pth"
    arguments = ["--config", "network/espnet_camvid", "--config", "data/camvid", "--data.root", str(camvid())]
    arguments += ["--data.check", "headers", "--check_images", "0", "--output", str(tmp_path)]
    assert main(["evaluate", *arguments, "--ckpt_path", str(file), *options]) == 0
    for key, value in expected.items():
        # these images are JPEG, the published figures of PNG
        assert 100 * card(tmp_path)["clean"][key] == pytest.approx(value, abs=0.3), key


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.drop_classes", "[30]"], "model.drop_classes names output 30: the network has outputs 0 to 7"),
        (["--model.void_class", "-1"], "model.void_class names output -1"),
        (["--model.drop_classes", "[0, 0]"], "output 0 stands twice"),
    ],
)
def test_outputs_that_are_not_there_are_refused(options, words, tmp_path, capsys):
    root = ["--trainer.default_root_dir", str(tmp_path)]
    assert main(["train", *TINY, *SMALL, *FEW, *options, *root]) != 0
    assert words in capsys.readouterr().err
