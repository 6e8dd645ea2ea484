"""Detectors in front of a model, through the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from robustseg.cli.main import main
from robustseg.config.build import RobustSegCLI
from robustseg.detectors import OnPatches, ScaleConsistency, SpatialConsistency, ThroughBlur
from robustseg.evaluation.report import read_card
from tests.evaluation.report.pages import parse
from tests.helpers.paths import CONF, ROOT

SUITE = """
robustness:
  suite: detectors
  detectors:
    spatial: {class_path: SpatialConsistency, init_args: {patch_size: 16, k: 2, displacement: [2, 6]}}
    scale: {class_path: ScaleConsistency, init_args: {sigma: 1}}
  false_positive_rate: 0.25
  threshold_images: 6
  attacks:
    fgsm: {class_path: FGSM}
    adaptive:
      class_path: Targeted
      init_args:
        attack: {class_path: OnPatches, init_args: {attack: {class_path: PGD, init_args: {steps: 1, targeted: true}},
                 patch_size: 16, k: 2}}
        target_map: {class_path: PureClass, init_args: {class_id: 1}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder as training leaves it, with random weights whose answers differ from place to place."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "checkpoints").mkdir()
    shutil.copy(CONF / "tiny.yaml", folder / "config.yaml")
    cli = RobustSegCLI(["--config", str(folder / "config.yaml")])
    dataset, model = cli.datamodule.data.dataset("val"), cli.model.model.eval()
    (head,) = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.out_channels == model.num_classes]
    with torch.no_grad():
        # Without a favourite class.
        head.bias -= model(torch.stack([dataset[index].image for index in range(5)])).mean((0, 2, 3))
    torch.save({"state_dict": cli.model.state_dict()}, folder / "checkpoints" / "last.ckpt")
    return folder


def evaluate(run: Path, output: Path, *options: str) -> int:
    suite = output.parent / "suite.yaml"
    suite.write_text(SUITE)
    command = ["evaluate", "--config", str(run / "config.yaml"), "--config", str(suite), "--output", str(output)]
    checkpoint = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--check_images", "0"]
    return main([*command, *checkpoint, *options])


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation") / "out"
    assert evaluate(run, folder) == 0
    return folder


def test_the_card_the_page_the_text_and_tensorboard(folder):
    card = read_card(folder).as_dict()
    assert list(card["detectors"]) == ["spatial", "scale"]
    found = card["detectors"]["spatial"]
    assert found["settings"] == SpatialConsistency(16, 2, (2, 6)).describe()
    assert (found["threshold"]["images"], found["threshold"]["false_positive_rate"]) == (6, 0.25)
    assert list(found["attacks"]) == ["fgsm", "adaptive"]
    headings, *rows = parse((folder / "report.html").read_text()).all("table", "detectors")[0].table()
    assert headings[:4] == ["detector", "attack", "rejected", "AUC"]
    assert [row[:2] for row in rows] == [[d, a] for d in card["detectors"] for a in ("clean", "fgsm", "adaptive")]
    assert rows[1][2] == f"{100 * found['attacks']['fgsm']['rejected']:.2f}"
    assert "## Detectors in front of the model" in (folder / "card.md").read_text()
    logged = EventAccumulator(str(folder))
    logged.Reload()
    for attack, detector, key in (("fgsm", "scale", "auc"), ("adaptive", "spatial", "rejected")):
        (event,) = logged.Scalars(f"test/{attack}/{detector}/{key}")
        assert event.value == pytest.approx(card["detectors"][detector]["attacks"][attack][key])
    assert "test/clean/scale/rejected" in logged.Tags()["scalars"]
    assert "test/clean/scale/auc" not in logged.Tags()["scalars"]


def test_again_and_in_shards_the_card_has_the_same_bytes(run, folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "again")
    assert evaluate(run, tmp_path / "again") == 0
    assert "detectors in front of the model" in capsys.readouterr().out
    for shard in ("1/2", "2/2"):
        assert evaluate(run, tmp_path / "shards", "--shard", shard) == 0
    for name in ("again", "shards"):
        assert (tmp_path / name / "card.json").read_bytes() == (folder / "card.json").read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--robustness.false_positive_rate", "1"], "robustness.false_positive_rate: false_positive_rate = 1.0: use"),
        (["--robustness.threshold_images", "0"], "robustness.threshold_images: threshold_images = 0: use at least one"),
        (["--robustness.detectors.clean", "ScaleConsistency"], "a detector cannot be called 'clean'"),
        (["--robustness.detectors.scale.sigma", "-1"], "sigma = -1.0: a positive standard deviation"),
        (["--robustness.detectors.scale.sigma", "2"], "view scale with other settings (sigma: 1.0 there, 2.0 here)"),
        (["--robustness.detectors.other", "ScaleConsistancy"], "no class 'ScaleConsistancy'. Did you mean ScaleC"),
        (["--robustness.detectors.other", "SpatialConsistency"], "patch_size = 512 is larger than the images of 32×32"),
        (["--robustness.detectors.spatial.k", "0"], "k = 0: at least one pair"),
    ],
    ids=lambda value: " ".join(value)[13:50] if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_message(run, folder, tmp_path, options, said, capsys):
    shutil.copytree(folder, tmp_path / "out")
    capsys.readouterr()
    try:
        status = evaluate(run, tmp_path / "out", *options)
    except SystemExit as error:
        status = error.code
    message = capsys.readouterr().err
    assert status in (1, 2)
    assert said in message
    assert "Traceback" not in message
    assert (tmp_path / "out" / "card.json").read_bytes() == (folder / "card.json").read_bytes()


def test_training_ends_with_them_and_a_study_leaves_them_out(tmp_path, capsys):
    """A model that has just begun shows a single class: no threshold, and the run is there all the same."""
    (tmp_path / "suite.yaml").write_text(SUITE)
    options = ["--config", str(tmp_path / "suite.yaml"), "--trainer.default_root_dir", str(tmp_path)]
    short = ["--trainer.max_epochs", "1", "--robustness.every_n_epochs", "0", "--data.train_length", "32"]
    assert main(["train", "--config", str(CONF / "tiny.yaml"), *options, *short]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("robustseg: error")]
    assert "robustness.detectors.spatial: no threshold" in line
    assert "all 6 benign images have the score 1" in line
    folder = tmp_path / "tiny" / "version_0"
    assert list(folder.glob("evaluation_*/records/*"))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["robustness"]["detectors"]["scale"]["class_path"].endswith("ScaleConsistency")
    study = ["--config", str(ROOT / "configs" / "study" / "step_curve.yaml")]
    files = ["--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "checkpoints" / "last.ckpt")]
    assert RobustSegCLI([*files, *study], evaluate=True, study=True).config_init.robustness.detectors == {}


def test_bare_names_are_enough(tmp_path):
    path = ROOT / "configs" / "robustness" / "detectors.yaml"
    cli = RobustSegCLI(["--config", str(CONF / "tiny.yaml"), "--config", str(path),
                        "--trainer.default_root_dir", str(tmp_path)])  # fmt: skip
    robustness = cli.config_init.robustness
    spatial, scale = robustness.detectors["spatial"], robustness.detectors["scale"]
    assert isinstance(spatial, SpatialConsistency)
    assert isinstance(scale, ScaleConsistency)
    on_patches, through_blur = (robustness.attacks[f"dag_{name}"].attack for name in ("on_patches", "through_blur"))
    assert isinstance(on_patches, OnPatches)
    assert isinstance(through_blur, ThroughBlur)
    # Each is made against what is in front of the model, within the bound of the plain one.
    assert (on_patches.patch_size, on_patches.k) == (spatial.sampler.sizes[0], spatial.k)
    assert through_blur.blur.sigma == scale.blur.sigma
    plain = robustness.attacks["dag"].attack.describe()
    assert on_patches.attack.describe() == through_blur.attack.describe() == plain
