"""Two ranks that continue from any checkpoint end in the bits of those that were not interrupted, also if sharded."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.resume.kills import Runs
from tests.resume.runs import kill, newest, state, unlike, wait

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # processes that import torch, on a busy machine
OPTIONS = [
    "--trainer.max_epochs",
    "2",
    "--trainer.limit_train_batches",
    "3",
    "--save.every_n_steps",
    "1",
    "--save.keep",
    "9",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    two = Runs(tmp_path_factory.mktemp("runs"), ranks=2, options=OPTIONS)
    two.finish("whole")
    return two


@pytest.mark.parametrize("step", [2, 3])  # within an epoch; after a validation, of averaged weights
def test_from_any_checkpoint(runs, step):
    name = f"from{step}"
    shutil.copytree(runs.folder / "whole", runs.folder / name)
    _forget_after(runs.folder / name, step)
    runs.finish(name)
    assert unlike(state(newest(runs.folder / "whole")), state(newest(runs.folder / name))) == []


def test_a_signal_to_one_of_them_is_answered_by_both(runs):
    child = runs.start("told")
    checkpoints = runs.folder / "told" / "resume" / "version_0" / "checkpoints"
    while not list(checkpoints.glob("step_*.ckpt")):
        assert wait(child, 0.01) is None
    os.kill(_training_process(child), signal.SIGTERM)
    try:
        assert wait(child, 300) == 85
    finally:
        kill(child)
    printed = (runs.folder / "told.log").read_text()
    assert printed.count("; continues from") == 1
    assert "Traceback" not in printed
    runs.finish("told")
    assert unlike(state(newest(runs.folder / "whole")), state(newest(runs.folder / "told"))) == []


def test_sharded_and_without_from_the_same_checkpoints(tmp_path):
    """FSDP2 continues its own to the bit. DDP reads them as well, and rounds otherwise."""
    options = [*OPTIONS, "--trainer.callbacks", "[]"]  # an average of weights is refused there
    ddp, sharded = (Runs(tmp_path, ranks=2, options=options, strategy=name) for name in ("ddp", "fsdp2"))
    sharded.finish("whole")
    whole = state(newest(tmp_path / "whole"))
    shutil.copytree(tmp_path / "whole", tmp_path / "mixed")
    for continued, bound in ((sharded, 0.0), (ddp, 0.05)):
        _forget_after(tmp_path / "mixed", 3)
        continued.finish("mixed")
        mixed = state(newest(tmp_path / "mixed"))
        for part in ("state_dict", "optimizer_states", "loops", "lr_schedulers"):
            lines = unlike(whole[part], mixed[part])
            assert all(float(line.split()[1]) < bound for line in lines), lines
    printed = (tmp_path / "mixed.log").read_text()
    assert printed.count("resuming from") == 2
    assert printed.count("strategy fsdp2 there and ddp here") == 1


def _forget_after(folder: Path, step: int) -> None:
    (kept,) = folder.glob("*/version_*/checkpoints")
    for path in kept.iterdir():
        if path.name.startswith("step_") and int(path.name[5:13]) > step:
            path.unlink()


def _training_process(parent: int) -> int:
    """Rank 0: the command that the child runs."""
    (children,) = [path.read_text() for path in Path(f"/proc/{parent}/task").glob("*/children")]
    return int(children.split()[0])
