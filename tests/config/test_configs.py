"""Every shipped configuration is parsed and instantiated by the real command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from robustseg.attacks import Attack
from robustseg.config.build import RobustSegCLI
from robustseg.studies import Study
from tests.helpers.paths import ROOT

CONFIGS = ROOT / "configs"
# those of the papers' tables: test_paper_configs.py
EXPERIMENTS = sorted((CONFIGS / "experiment" / "camvid").glob("*.yaml"))
FRAGMENTS = sorted(
    path
    for folder in ("attack", "data", "inference", "network", "recipe", "robustness")
    for path in (CONFIGS / folder).glob("*.yaml")
)
STUDIES = sorted((CONFIGS / "study").glob("*.yaml"))
DRAWN_BY_THE_USER = {
    "paper_xiao": "data/targets/kitty.png",
    "paper_xiao_kitty": "data/targets/kitty.png",
    "paper_xiao_scene": "data/targets/scene_without_cars.png",
}
"""Label maps that suites and studies name and that are not published."""
NO_DOWNLOAD = ["--model.network.init_args.pretrained", "false"]


def build(*args: str, tmp_path: Path) -> RobustSegCLI:
    return RobustSegCLI([*args, "--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"])


def test_there_is_a_complete_run_for_each_row():
    names = {f"{network}_{size}_{attack}" for network in ("pspnet", "deeplabv3") for size in ("r50", "small")
             for attack in ("standard", "pgd3", "segpgd3", "segpgd7", "ds3")}  # fmt: skip
    # a third architecture for transfer, standard training only
    assert {path.stem for path in EXPERIMENTS} == names | {"fcn_small_standard"}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment(path, tmp_path):
    cli = build("--config", str(path), *NO_DOWNLOAD, tmp_path=tmp_path)
    attack = path.stem.rsplit("_", 1)[1]
    assert cli.config.experiment == f"camvid/{path.stem}"
    if attack == "standard":
        assert cli.model.attack is None
    else:
        assert type(cli.model.attack).__name__.lower() == attack[:-1]
        assert cli.model.attack.steps == int(attack[-1])
        assert str(cli.model.attack.threat.eps) == "8/255"
        assert cli.model.split.sizes(cli.datamodule.batch_size) == (4, 4)
    assert cli.model.model.num_classes == cli.datamodule.data.num_classes == 11
    assert set(cli.config_init.robustness.attacks) == {"fgsm", "pgd20", "segpgd20", "cospgd20"}


def draw_what_the_user_draws(path, tmp_path, monkeypatch):
    """The label map that a configuration names, in the working folder."""
    if path.stem in DRAWN_BY_THE_USER:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "data" / "targets").mkdir(parents=True)
        Image.new("L", (96, 96), 1).save(tmp_path / DRAWN_BY_THE_USER[path.stem])


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_fragment_on_top_of_the_quickstart(path, tmp_path, monkeypatch):
    draw_what_the_user_draws(path, tmp_path, monkeypatch)
    # not every network knows the option
    text = path.read_text(encoding="utf-8")
    offline = NO_DOWNLOAD if "pretrained: true" in text else []
    # an output of a network for other data
    fitting = ["--model.drop_classes", "null"] if "  drop_classes:" in text else []
    given = ["--config", str(CONFIGS / "quickstart.yaml"), "--config", str(path), *offline, *fitting]
    cli = build(*given, tmp_path=tmp_path)
    if path.parent.name == "robustness":
        assert all(isinstance(attack, Attack) for attack in cli.config_init.robustness.attacks.values())
    if path.parent.name == "attack":
        assert (cli.model.attack is None) == (path.stem == "none")


@pytest.mark.parametrize("twin", ["quickstart.yaml", "quickstart_standard.yaml"])
def test_quickstart(twin, tmp_path):
    cli = build("--config", str(CONFIGS / "quickstart.yaml"), "--config", str(CONFIGS / twin), tmp_path=tmp_path)
    assert (cli.model.attack is None) == (twin == "quickstart_standard.yaml")
    assert list(cli.config_init.robustness.attacks) == ["fgsm", "pgd20", "segpgd20", "cospgd20"]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_of_a_checkpoint(path, tmp_path, monkeypatch):
    draw_what_the_user_draws(path, tmp_path, monkeypatch)
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.touch()
    run = ["--config", str(CONFIGS / "quickstart.yaml"), *NO_DOWNLOAD, "--ckpt_path", str(checkpoint)]
    study = RobustSegCLI([*run, "--config", str(path)], evaluate=True, study=True).config_init.study
    assert isinstance(study, Study)
    # files of the default names do not displace one another
    assert study.name == path.stem
    assert study.attacks()
