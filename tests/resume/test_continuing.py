"""A run that ended early and was continued is the run that did not, wherever it ended: in one process, step by step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robustseg.cli import main
from robustseg.training import RobustSegmentation
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
    [(name, batches) for name in VARIANTS for batches in (range(1, 8) if name == "every_step" else (3, 5, 6))],
)
def test_ended_after_any_batch_it_goes_on_to_the_same_bits(name, batches, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        end_after(batches, patch)
        with pytest.raises(Ended):
            run(tmp_path, *VARIANTS[name])
    assert run(tmp_path, *VARIANTS[name]) == 0
    assert unlike(whole(name), state(newest(tmp_path))) == []
