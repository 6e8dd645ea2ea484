"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import shlex

import pytest
import pytorch_lightning as pl
import torch

from robustseg.cli.main import main
from robustseg.config.build import RobustSegCLI
from tests.helpers.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
MODELS = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```bash\n(.*?)```", README + MODELS, flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("robustseg")
]


def test_python_examples_run():
    attack_from_code, extend = PYTHON
    scope: dict = {}
    exec(attack_from_code, scope)
    delta = (scope["images_adv"].double() - scope["images"].double()).abs()
    assert 0 < float(delta.max()) <= 8 / 255
    exec(extend, scope)
    targets = scope["targets"].clone()
    targets[:, :8] = 255
    images_adv = scope["TrueLogitPGD"](steps=2)(scope["model"], scope["images"], targets)
    assert not torch.equal(images_adv, scope["images"])


@pytest.mark.parametrize(
    "command",
    # every network is built for these
    [pytest.param(c, marks=[pytest.mark.slow] * (c[1] in ("models", "inspect"))) for c in COMMANDS],
    ids=lambda command: " ".join(command[1:6])[:60],
)
def test_commands_are_understood(command, tmp_path, monkeypatch, capsys):
    """Parsed and built by the real command line, where a run's files do not exist yet with stand-ins."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "quickstart" / "version_0"
    (folder / "checkpoints").mkdir(parents=True)
    stand_in = {"state_dict": {}, "global_step": 0, "loops": {}, "optimizer_states": [], "lr_schedulers": []}
    stand_in["pytorch-lightning_version"] = pl.__version__
    torch.save(stand_in, folder / "checkpoints" / "last.ckpt")
    for foreign in ("FILE", "train_epoch_50.pth"):
        torch.save({"state_dict": {"module.cls.4.bias": torch.zeros(21)}}, tmp_path / foreign)
    (folder / "config.yaml").write_text((ROOT / "configs" / "quickstart.yaml").read_text())
    assert command[0] == "robustseg"
    arguments = list(command[2:])
    if "--model.init_weights" in arguments:
        del arguments[(at := arguments.index("--model.init_weights")) : at + 2]
    if command[1] in ("models", "datasets", "inspect"):
        assert main(command[1:]) == (1 if "--network" in command else 0)
        return
    if command[1] in ("leaderboard", "transfer"):
        # Understood, and then short of the runs that a reader would have.
        assert main(command[1:]) == 1
        assert "runs/quickstart" in capsys.readouterr().err
        return
    cli = RobustSegCLI(arguments, evaluate=command[1] != "train", study=command[1] == "study")
    assert cli.model.model.num_classes == cli.datamodule.data.num_classes


def test_nothing_is_left_to_fill_in():
    for path in (ROOT / "README.md", ROOT / "docs" / "results.md"):
        assert "@@" not in path.read_text(encoding="utf-8"), path


def test_paths_named_exist():
    for path in re.findall(r"(?<![\w/])((?:configs|tests|docs|robustseg|benchmarks)/[\w./]+\w)", README + MODELS):
        if not path.startswith("runs"):
            assert (ROOT / path).exists(), path
