"""A wheel holds all that its user needs: from an empty folder, the quickstart trains and is evaluated."""

import os
import shutil
import subprocess
import sys

import pytest

from robustseg.shipped import files
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow
SOURCES = ["robustseg", "configs", "setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"]
SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--data.test_length=4", "--data.val_length=16"]
CPU = ["--trainer.accelerator=cpu", "--trainer.devices=1"]


def run(*command, cwd, **environment):
    ended = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that holds what the wheel of this source installs."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", "wheels", "./source", cwd=folder)
    (wheel,) = (folder / "wheels").glob("*.whl")
    run(*pip, "install", "--no-deps", "--no-compile", "--target", "site", wheel, cwd=folder)
    return folder / "site"


def test_the_wheel_has_every_configuration(site):
    shipped = {path.relative_to(ROOT / "configs"): path.read_bytes() for path in files().values()}
    root = site / "robustseg" / "configs"
    assert {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()} == shipped
    assert os.access(root / "slurm" / "start.sh", os.X_OK) == os.access(ROOT / "configs/slurm/start.sh", os.X_OK)
    assert not (site / "share").exists()


@pytest.mark.timeout(600)
def test_the_quickstart_from_an_empty_folder(site, tmp_path):
    def robustseg(*args):
        return run(sys.executable, site / "bin" / "robustseg", *args, cwd=tmp_path, PYTHONPATH=str(site))

    where = run(sys.executable, "-c", "import robustseg; print(robustseg.__file__)", cwd=tmp_path, PYTHONPATH=str(site))
    assert where.strip() == str(site / "robustseg" / "__init__.py")
    listed = robustseg("configs")
    assert files().keys() <= set(listed.splitlines())
    assert "cospgd20" in robustseg("train", "--config", "quickstart", *SHORT, *CPU)
    folder = tmp_path / "runs" / "quickstart" / "version_0"
    saved = (folder / "config.yaml").read_text()
    assert "backbone: resnet10t" in saved
    assert "include" not in saved
    given = ["--config", folder / "config.yaml", "--ckpt_path", folder / "checkpoints" / "last.ckpt"]
    assert "segpgd20" in robustseg("evaluate", *given, "--config", "robustness/quick", "--output", "evaluation", *CPU)
    assert (tmp_path / "evaluation" / "card.json").is_file()
