"""Every callback that Lightning exports, through the real command line: it works, or is refused with the reason.

The table in docs/training.md is compared with what happens. A callback that works does so in every sense: the run is
continued to the bit, and trained with the batches of the configuration.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import pytorch_lightning.callbacks
import torch

from robustseg.cli.main import main
from robustseg.config.callbacks import REFUSED
from robustseg.resume.checkpoint_files import checkpoint_name
from tests.helpers.paths import CONF, ROOT
from tests.resume.runs import unlike

FOREIGN = "tests.helpers.foreign_callbacks"
ARGUMENTS = {
    "BackboneFinetuning": {"unfreeze_backbone_at_epoch": 1},
    "DeviceStatsMonitor": {"cpu_stats": False},
    "EarlyStopping": {"monitor": "val/miou"},
    "GradientAccumulationScheduler": {"scheduling": {"1": 2}},
    "ModelCheckpoint": {"monitor": "train/loss", "save_top_k": 2},
    "ModelPruning": {"pruning_fn": "l1_unstructured", "amount": 0.1},
    "OnExceptionCheckpoint": {"dirpath": "somewhere"},
    "SpikeDetection": {"mode": "max"},
    "StochasticWeightAveraging": {"swa_lrs": 0.01, "swa_epoch_start": 1},
    "ThroughputMonitor": {"batch_size_fn": f"{FOREIGN}.images_of"},
}
EXPORTED = pytorch_lightning.callbacks.__all__
ROWS = dict(
    re.findall(r"^\| `(\w+)` \| (works|refused): (?:.*) \|$", (ROOT / "docs/training.md").read_text(), re.MULTILINE)
)
QUICK = ("EarlyStopping", "RichProgressBar", "BatchSizeFinder", "Timer")
STEPS = ["--save.every_n_steps", "1", "--save.keep", "9", "--robustness.attacks", "{}"]


def train(root: Path, callbacks: list[tuple[str, dict]], *options: str) -> int:
    listed = json.dumps([{"class_path": path, "init_args": arguments} for path, arguments in callbacks])
    tiny = ["--config", str(CONF / "tiny.yaml"), "--allow_import", "tests", "--trainer.default_root_dir", str(root)]
    return main(["train", *tiny, *STEPS, "--trainer.callbacks", listed, *options])


def last(root: Path) -> dict:
    """What decides how a run goes on, of its newest checkpoint."""
    (path,) = root.glob("tiny/version_0/checkpoints/last.ckpt")
    content = torch.load(path, weights_only=True)
    kept = {key: content[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops")}
    states = {key: value for key, value in content["callbacks"].items() if key.startswith(("Early", "EMA", "Weight"))}
    return {**kept, "averaging": content.get("averaging_state"), "callbacks": states}


def outcome(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """``works``, seen by a run and its continuation from the middle, or ``refused: …`` as printed."""
    callback = [(f"pytorch_lightning.callbacks.{name}", ARGUMENTS.get(name, {}))]
    status = train(tmp_path / "whole", callback)
    err = capsys.readouterr().err
    if status == 1 and not (tmp_path / "whole").exists():
        (line,) = [line for line in err.splitlines() if line.startswith("robustseg: error:")]
        return f"refused: {line.partition(' is not supported: ')[2]}"
    assert status == 0, err
    part = tmp_path / "whole" / "tiny" / "version_0" / "checkpoints" / checkpoint_name(3)
    assert train(tmp_path / "part", callback, "--ckpt_path", str(part)) == 0, capsys.readouterr().err
    assert not unlike(last(tmp_path / "whole"), last(tmp_path / "part"))
    return "works"


def test_the_table_names_all_that_lightning_exports():
    assert sorted(ROWS) == sorted(EXPORTED)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EXPORTED]
)
def test_a_callback_does_what_the_table_says(name, tmp_path, capsys):
    found = outcome(name, tmp_path, capsys)
    assert f"| `{name}` | {found}" in (ROOT / "docs" / "training.md").read_text()


@pytest.mark.parametrize(
    ("callback", "options", "parts"),
    [
        ((f"{FOREIGN}.Deeper", {}), [], ["trainer.callbacks[0]", "Deeper", "set data.batch_size"]),
        (("Timer", {"duration": "00:01:00:00"}), [], ["trainer.callbacks[0].duration", "limit epochs or steps"]),
        ((f"{FOREIGN}.OwnTimer", {}), [], ["trainer.callbacks[0].duration", "limit epochs or steps"]),
        (("ModelCheckpoint", {"save_on_exception": True}), [], ["[0].save_on_exception", "save.every_n_steps"]),
        (("ModelCheckpoint", {"save_last": True}), [], ["[0].save_last = true", "leave it out"]),
        (("ModelSummary", {"max_depth": -5}), [], ["trainer.callbacks[0].max_depth = -5", "-1 for all"]),
        (("EarlyStopping", {"monitor": "val/miou", "patience": -1}), [], ["callbacks[0].patience = -1"]),
        (("ModelSummary", {}), ["--checkpoint.save_on_exception", "true"], ["checkpoint.save_on_exception"]),
        (("ModelSummary", {}), ["--checkpoint.train_time_interval", "0:00:00"], ["checkpoint.train_time_interval"]),
        (("ModelCheckpoint", {"monitor": "val/miou"}), ["--checkpoint.monitor", "val/miou"], ["trainer: Found more"]),
    ],
    ids=lambda value: str(value)[:50],
)
def test_settings_of_callbacks_are_refused_before_anything_is_written(callback, options, parts, tmp_path, capsys):
    assert train(tmp_path / "runs", [callback], *options) == 1
    err = capsys.readouterr().err
    assert all(part in err for part in parts), err
    assert not (tmp_path / "runs").exists()


def test_figures_of_the_cpu_need_a_package(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("robustseg.config.callbacks.find_spec", lambda name: None)
    assert train(tmp_path / "runs", [("DeviceStatsMonitor", {})]) == 1
    assert "trainer.callbacks[0]: figures of the CPU need psutil: pip install psutil" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("LargerBatches", ["data.batch_size was 4", "is 8 at step 0"]),
        ("Accumulating", ["trainer.accumulate_grad_batches was 1", "is 2 at step 2"]),
    ],
)
def test_a_callback_that_changes_batches_is_found_before_the_update(name, parts, tmp_path, capsys):
    assert train(tmp_path, [(f"{FOREIGN}.{name}", {})]) == 1
    err = capsys.readouterr().err
    assert all(part in err for part in parts), err


def test_an_evaluation_leaves_out_what_no_run_can_have(tmp_path, capsys):
    """Runs of version 0.1 may have been trained with any callback."""
    assert train(tmp_path, [("ModelSummary", {})], "--trainer.max_epochs", "1") == 0
    run = tmp_path / "tiny" / "version_0"
    text = (run / "config.yaml").read_text()
    assert "class_path: ModelSummary" in text.replace("pytorch_lightning.callbacks.", "")
    changed = re.sub(
        r"- class_path: [\w.]*ModelSummary\n +init_args:\n +max_depth: 1\n",
        "- class_path: pytorch_lightning.callbacks.BatchSizeFinder\n",
        text,
    )
    assert "BatchSizeFinder" in changed
    (tmp_path / "old.yaml").write_text(changed)
    checkpoint = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--output", str(tmp_path / "out")]
    assert main(["evaluate", "--config", str(tmp_path / "old.yaml"), "--check_images", "0", *checkpoint]) == 0


def test_every_refusal_names_a_remedy_that_is_there():
    for reason in REFUSED.values():
        for cls in re.findall(r"robustseg\.\w+\.\w+", reason):
            module, _, name = cls.rpartition(".")
            assert hasattr(importlib.import_module(module), name), cls
