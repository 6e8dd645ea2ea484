"""A run that ended early and was continued is the run that did not, wherever it ended: in one process, step by step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from robustseg.cli.main import main
from robustseg.resume.callback import ResumeCheckpoint
from robustseg.resume.preemption import REQUEUE
from robustseg.training import RobustSegmentation
from tests.helpers.stopping import send_to_self
from tests.resume.runs import command, newest, state, unlike

SHORT = ("--data.num_workers", "0", "--trainer.max_epochs", "2", "--trainer.limit_train_batches", "4")
QUICK = (
    *SHORT,
    "--robustness.test_num_images",
    "1",
    "--data.test_length",
    "1",
    "--model.network.init_args.aux_head",
    "false",
)


pytestmark = pytest.mark.slow


class Ended(BaseException):
    """In the place of SIGKILL: nothing in the package catches it."""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(folder: Path, *options: str) -> int:
    return main(command(folder, *QUICK, *options))


def end_after(batches: int, monkeypatch, kill=None) -> pytest.MonkeyPatch:
    """The run ends after so many training batches, or calls ``kill`` then."""
    counted, step = [0], RobustSegmentation.training_step

    def ending(self, batch, batch_idx):
        if counted[0] == batches:
            counted[0] += 1
            (kill or die)()
        counted[0] += 1
        return step(self, batch, batch_idx)

    def die():
        raise Ended

    monkeypatch.setattr(RobustSegmentation, "training_step", ending)


VARIANTS = {
    "plain": (),
    "every_step": ("--save.every_n_steps", "1"),
    "accumulation": ("--trainer.accumulate_grad_batches", "2", "--save.every_n_steps", "1"),
    "validation_within_epochs": ("--trainer.val_check_interval", "2", "--save.every_n_steps", "1"),
    "max_steps": ("--trainer.max_epochs=-1", "--trainer.max_steps", "7", "--save.every_n_steps", "2"),
    "background": ("--save.asynchronous", "true", "--save.every_n_steps", "1"),
    "no_epoch_ends": ("--save.every_n_epochs", "0", "--save.every_n_steps", "3"),
    "foreach_ema": ("--trainer.callbacks", "[{class_path: EMA, init_args: {decay: 0.9}}]", "--save.every_n_steps", "1"),
    "bf16": ("--trainer.precision", "bf16-mixed", "--save.every_n_steps", "1"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run of a variant."""
    kept = {}

    def of(name):
        if name not in kept:
            folder = tmp_path_factory.mktemp(name)
            assert run(folder, *VARIANTS[name]) == 0
            kept[name] = state(newest(folder))
        return kept[name]

    return of


@pytest.mark.parametrize(
    ("name", "batches"),
    [
        # in the first epoch; at its end, and in the second
        pytest.param(name, batches, marks=() if batches == 3 else pytest.mark.exhaustive)
        for name in VARIANTS
        for batches in (range(1, 8) if name == "every_step" else (3, 6))
    ],
)
def test_ended_after_any_batch_it_goes_on_to_the_same_bits(name, batches, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        end_after(batches, patch)
        with pytest.raises(Ended):
            run(tmp_path, *VARIANTS[name])
    assert run(tmp_path, *VARIANTS[name]) == 0
    assert unlike(whole(name), state(newest(tmp_path))) == []


def interrupt(number: signal.Signals):
    return lambda: send_to_self(number)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("name", ["plain", "accumulation", "background"])
def test_a_signal_is_answered_after_the_step_and_the_run_goes_on_from_there(
    name, number, whole, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        # with two batches to an update in the middle of one
        end_after(0 if name == "accumulation" else 2, patch, interrupt(number))
        assert run(tmp_path, *VARIANTS[name]) == REQUEUE
    steps = 1 if name == "accumulation" else 3
    out = capsys.readouterr().out
    assert f"robustseg: {number.name} at step {steps}; continues from" in out
    assert f"exit status {REQUEUE}: start the same command again with --ckpt_path last" in out
    assert newest(tmp_path).resolve().name == f"step_{steps:08d}.ckpt"
    assert signal.getsignal(number) == signal.SIG_DFL
    assert run(tmp_path, *VARIANTS[name]) == 0
    assert f"resuming from {newest(tmp_path).parent / f'step_{steps:08d}.ckpt'}" in capsys.readouterr().out
    assert unlike(whole(name), state(newest(tmp_path))) == []


def test_a_signal_at_the_last_batch_of_an_epoch_waits_for_its_validation(whole, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        end_after(3, patch, interrupt(signal.SIGUSR1))
        patch.setattr(ResumeCheckpoint, "on_validation_batch_start", lambda *_: None)
        assert run(tmp_path) == REQUEUE
    assert newest(tmp_path).resolve().name == "step_00000004.ckpt"
    assert run(tmp_path) == 0
    assert unlike(whole("plain"), state(newest(tmp_path))) == []


def test_a_signal_in_a_validation_ends_it_without_a_checkpoint(whole, tmp_path, monkeypatch, capsys):
    validate = RobustSegmentation.validation_step

    def signalled(self, batch, batch_idx):
        if self.trainer.global_step == 4 and batch_idx == 0:
            send_to_self(signal.SIGTERM)
        return validate(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(RobustSegmentation, "validation_step", signalled)
        assert run(tmp_path, *VARIANTS["no_epoch_ends"]) == REQUEUE
    assert newest(tmp_path).resolve().name == "step_00000003.ckpt"
    assert run(tmp_path, *VARIANTS["no_epoch_ends"]) == 0
    assert unlike(whole("no_epoch_ends"), state(newest(tmp_path))) == []


def test_a_signal_in_the_evaluation_at_the_end_leaves_at_once(tmp_path, monkeypatch, capsys):
    from robustseg.evaluation.benchmark.module import EvaluationModule

    step, calls = EvaluationModule.test_step, []

    def signalled(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            send_to_self(signal.SIGTERM)
        return step(self, *arguments)

    options = ("--data.test_length", "3", "--robustness.test_num_images", "null", "--data.val_batch_size", "1")
    with monkeypatch.context() as patch:
        patch.setattr(EvaluationModule, "test_step", signalled)
        assert run(tmp_path, *options) == REQUEUE
        assert len(calls) == 2
    assert run(tmp_path, *options) == 0
    (card,) = tmp_path.glob("resume/version_0/evaluation_*/card.json")
    assert json.loads(card.read_text())["model"]["weights"] == "averaged"


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (1, 3)])
def test_the_number_of_workers_changes_nothing(before, after, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        end_after(5, patch)
        with pytest.raises(Ended):
            run(tmp_path, "--save.every_n_steps", "1", "--data.num_workers", str(before))
    assert run(tmp_path, "--save.every_n_steps", "1", "--data.num_workers", str(after)) == 0
    assert unlike(whole("every_step"), state(newest(tmp_path))) == []


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_message(whole, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        end_after(6, patch)
        with pytest.raises(Ended):
            run(tmp_path, *VARIANTS["every_step"])
    path = newest(tmp_path).resolve()
    assert path.name == "step_00000006.ckpt"
    path.write_bytes(path.read_bytes()[:-1000])
    capsys.readouterr()
    assert run(tmp_path, *VARIANTS["every_step"]) == 0
    out = capsys.readouterr().out
    assert "step_00000006.ckpt" in out
    assert f"resuming from {path.with_name('step_00000005.ckpt')}" in out
    assert unlike(whole("every_step"), state(newest(tmp_path))) == []


def test_without_a_usable_checkpoint_nothing_is_started(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        end_after(3, patch)
        with pytest.raises(Ended):
            run(tmp_path, *VARIANTS["every_step"])
    for path in newest(tmp_path).parent.glob("step_*.ckpt"):
        path.write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert run(tmp_path, *VARIANTS["every_step"]) == 1
    error = capsys.readouterr().err
    assert all(part in error for part in ("--ckpt_path last", "step_00000003.ckpt", "step_00000002.ckpt"))
    assert sorted(tmp_path.rglob("*")) == before


def test_the_events_of_a_killed_run_are_not_shown_twice(whole, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def losses(folder: Path) -> list[int]:
        events = EventAccumulator(str(folder / "resume" / "version_0"))
        events.Reload()
        return [event.step for event in events.Scalars("train/loss")]

    with monkeypatch.context() as patch:
        end_after(5, patch)
        with pytest.raises(Ended):
            run(tmp_path, "--save.every_n_epochs", "0", "--save.every_n_steps", "3")
    assert losses(tmp_path) == [0, 1, 2, 3, 4]
    assert run(tmp_path, "--save.every_n_epochs", "0", "--save.every_n_steps", "3") == 0
    assert losses(tmp_path) == list(range(8))


def seen_by(monkeypatch) -> list[tuple[int, str]]:
    """(update, sample) of every training image from now on."""
    seen: list[tuple[int, str]] = []
    step = RobustSegmentation.training_step

    def noting(self, batch, batch_idx):
        seen.extend((self.global_step, sample) for sample in batch.ids)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(RobustSegmentation, "training_step", noting)
    return seen


@pytest.mark.parametrize("ended", [2, 3, 4])
def test_elastic_goes_on_with_the_same_images_in_each_update(ended, tmp_path, monkeypatch, capsys):
    """Four images in one batch, then two batches of two: as one process would for two ranks."""
    without_limit = ("--trainer.limit_train_batches", "null", "--data.train_length", "19", "--save.every_n_steps", "1")
    with monkeypatch.context() as patch:
        expected = seen_by(patch)
        assert run(tmp_path / "whole", *without_limit) == 0
    folder = tmp_path / "elastic"
    halves = ("--data.batch_size", "2", "--trainer.accumulate_grad_batches", "2", *without_limit)
    with monkeypatch.context() as patch:
        before = seen_by(patch)
        end_after(ended, patch)
        with pytest.raises(Ended):
            run(folder, *without_limit)
    capsys.readouterr()
    assert run(folder, *halves) == 1
    assert "--resume elastic" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        after = seen_by(patch)
        assert run(folder, *halves, "--resume", "elastic") == 0
    assert "no longer equal to the bit" in capsys.readouterr().out
    # the update that was not finished is repeated
    kept = [(step, sample) for step, sample in before if step < after[0][0]]
    assert sorted(kept + after) == sorted(expected)
    assert torch.load(newest(folder), weights_only=True)["global_step"] == 8


def test_a_best_checkpoint_written_at_a_validation_continues_as_well(whole, tmp_path):
    options = ("--checkpoint.save_top_k=-1", "--save.every_n_epochs", "0")
    assert run(tmp_path / "first", *options) == 0
    (kept,) = tmp_path.glob("first/resume/version_0/checkpoints/best_epoch_0_step_4.ckpt")
    assert run(tmp_path / "second", *options, "--ckpt_path", str(kept)) == 0
    again, expected = state(newest(tmp_path / "second")), state(newest(tmp_path / "first"))
    for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "SegmentationDataModule"):
        assert unlike(expected[key], again[key]) == []
        assert unlike(whole("plain")[key], again[key]) == []
    assert again["global_step"] == 8


def test_a_signal_in_a_validation_ends_a_process_with_data_workers(tmp_path):
    """Workers leave signals to the process that trains: at its end nobody may wait for them to hear of one."""
    start = (
        "import os, signal, sys;"
        "from robustseg.cli.main import main; from robustseg.training import RobustSegmentation as M;"
        "M.on_validation_epoch_end = lambda self: None;"
        "M.on_validation_epoch_start = lambda self: os.kill(os.getpid(), signal.SIGUSR1);"
        "sys.exit(main(sys.argv[1:]))"
    )
    options = [*QUICK, "--data.num_workers", "1", "--checkpoint.monitor", "null"]
    with (tmp_path / "log").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-c", start, *command(tmp_path, *options)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            timeout=200,
            check=False,
        )
    printed = (tmp_path / "log").read_text()
    assert done.returncode == REQUEUE, printed
    assert "SIGUSR1 at step 4" in printed
    assert "Traceback" not in printed


def test_a_run_that_was_moved_knows_its_best_checkpoint(tmp_path, monkeypatch):
    """The scores fall from validation to validation: the first stays the best."""
    log, calls = RobustSegmentation._log_scores, []

    def falling(self, stage):
        calls.append(stage)
        self.log("val/falling", 1.0 / len(calls))
        return log(self, stage)

    logged = RobustSegmentation.logged
    monkeypatch.setattr(RobustSegmentation, "_log_scores", falling)
    monkeypatch.setattr(RobustSegmentation, "logged", lambda *args: {*logged(*args), "val/falling"})
    options = ("--checkpoint.monitor", "val/falling", "--checkpoint.mode", "max", "--save.every_n_steps", "1")
    with monkeypatch.context() as patch:
        end_after(5, patch)
        with pytest.raises(Ended):
            run(tmp_path / "here", *options)
    (tmp_path / "here").rename(tmp_path / "there")
    assert run(tmp_path / "there", *options) == 0
    kept = [path.name for path in newest(tmp_path / "there").parent.glob("best*.ckpt")]
    assert kept == ["best_epoch_0_step_4.ckpt"]


def test_a_run_that_stopped_early_stays_stopped(tmp_path):
    stopping = {"monitor": "val/pgd2/miou", "mode": "max", "min_delta": 1.0, "patience": 1}
    callbacks = ["--trainer.callbacks", json.dumps([{"class_path": "EarlyStopping", "init_args": stopping}])]
    options = (*callbacks, "--trainer.max_epochs", "9")
    assert run(tmp_path, *options) == 0
    before = state(newest(tmp_path))
    assert before["global_step"] == 8
    assert run(tmp_path, *options) == 0
    assert unlike(before, state(newest(tmp_path))) == []
    assert run(tmp_path, *options, "--resume", "changed") == 0
    assert state(newest(tmp_path))["global_step"] > 8


def test_with_another_logger_the_run_is_found_as_well(whole, tmp_path, monkeypatch):
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path / "elsewhere")}}
    options = ("--trainer.logger", json.dumps(logger), *VARIANTS["every_step"])
    with monkeypatch.context() as patch:
        end_after(5, patch)
        with pytest.raises(Ended):
            run(tmp_path, *options)
    assert run(tmp_path, *options) == 0
    assert unlike(whole("every_step")["state_dict"], state(newest(tmp_path))["state_dict"]) == []


def test_the_newest_run_is_the_newest_also_before_its_first_checkpoint(whole, tmp_path, capsys):
    assert run(tmp_path) == 0
    (tmp_path / "resume" / "version_1").mkdir()
    capsys.readouterr()
    assert run(tmp_path) == 0
    assert "no checkpoint in" in capsys.readouterr().out
    kept = tmp_path / "resume" / "version_1" / "checkpoints" / "last.ckpt"
    assert unlike(whole("plain"), state(kept)) == []


@pytest.mark.parametrize("batch_size", ["2", "8"])
def test_with_another_batch_size_the_epoch_has_its_validation(batch_size, tmp_path, monkeypatch, capsys):
    options = ("--trainer.limit_train_batches", "null", "--data.train_length", "32", "--save.every_n_steps", "1")
    with monkeypatch.context() as patch:
        end_after(5, patch)
        with pytest.raises(Ended):
            run(tmp_path, *options)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        seen = seen_by(patch)
        assert run(tmp_path, *options, "--data.batch_size", batch_size, "--resume", "changed") == 0
    assert "an update had 4 images, now it has" in capsys.readouterr().out
    # the rest of the first epoch from the last whole update on, and the second
    position = 20 // int(batch_size) * int(batch_size)
    assert len(seen) == 32 - position + 32
    assert len(list(newest(tmp_path).parent.glob("best*.ckpt"))) == 1


@pytest.mark.parametrize(
    ("option", "named"),
    [
        (("--trainer.max_time", "00:00:01:00"), "max_time"),
        (("--ckpt_path", "{tmp}"), "it is a folder"),
    ],
)
def test_what_cannot_be_continued_is_refused_at_once(option, named, tmp_path, capsys):
    assert run(tmp_path, *(part.format(tmp=tmp_path) for part in option)) == 1
    assert named in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_outside_of_the_command_signals_are_given_back(tmp_path):
    callback = ResumeCheckpoint()
    trainer = pl.Trainer(accelerator="cpu", callbacks=[callback], logger=False, default_root_dir=tmp_path)
    callback.setup(trainer, None, "fit")
    assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    callback.teardown(trainer, None, "fit")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
