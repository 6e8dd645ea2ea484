"""``model.compile`` and ``model.channels_last`` through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from robustseg.config.build import RobustSegCLI
from robustseg.config.errors import is_expected
from robustseg.models import Compile
from tests.helpers.paths import ROOT

TINY = ["--config", str(ROOT / "tests" / "conf" / "tiny.yaml")]


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ([], None),
        (["--model.compile", "true"], Compile()),
        (["--model.compile.mode", "reduce-overhead"], Compile("reduce-overhead")),
        (["--model.compile", "{backend: eager, dynamic: true}"], Compile(backend="eager", dynamic=True)),
    ],
)
def test_forms_of_the_setting(arguments, settings, tmp_path):
    cli = RobustSegCLI([*TINY, *arguments, "--trainer.default_root_dir", str(tmp_path)])
    compiled = cli.model.model.compiled
    assert (None if compiled is None else compiled.settings) == settings


def test_a_backend_that_there_is_not_is_one_error_with_the_key(tmp_path):
    with pytest.raises(ValueError, match=r"model\.compile\.backend = 'inducter'") as caught:
        RobustSegCLI([*TINY, "--model.compile.backend", "inducter", "--trainer.default_root_dir", str(tmp_path)])
    assert is_expected(caught.value)


def robustseg(*arguments: str, folder: Path) -> str:
    command = [sys.executable, "-m", "robustseg", *arguments]
    with open(folder / "log", "w") as log:
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, timeout=200, check=False)
    text = (folder / "log").read_text()
    assert done.returncode == 0, text[-3000:]
    return text


@pytest.mark.slow
def test_a_compiled_run_is_evaluated_as_written_and_goes_on_uncompiled(tmp_path):
    options = ["--model.compile", "{backend: eager}", "--model.channels_last", "true"]
    root = ["--trainer.default_root_dir", str(tmp_path)]
    robustseg("train", *TINY, *options, *root, "--trainer.max_epochs", "1", folder=tmp_path)
    run = tmp_path / "tiny" / "version_0"
    evaluated = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    text = robustseg("evaluate", *evaluated, "--check_images", "0", folder=tmp_path)
    assert "the model runs uncompiled; --model.compile true compiles it" in text
    (card,) = run.glob("evaluation_*/card.json")  # the same as that of the training
    first = json.loads(card.read_text())["model"]
    assert first["execution"] == {"channels_last": True}
    robustseg("evaluate", *evaluated, "--check_images", "0", "--model.compile.backend", "eager", folder=tmp_path)
    cards = [json.loads(path.read_text())["model"]["execution"] for path in run.glob("evaluation_*/card.json")]
    compiled = {"mode": "default", "backend": "eager", "dynamic": None}
    assert {"channels_last": True, "compile": compiled} in cards
    again = ["--ckpt_path", "last", "--model.compile", "false", "--model.channels_last", "false", "--resume", "changed"]
    text = robustseg("train", *TINY, *options, *root, "--trainer.max_epochs", "2", *again, folder=tmp_path)
    assert "execution of the network {'compile': " in text
    assert "as written here" in text
